import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bundle.detector import Detector

LEVELS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, float("nan")])


def by_definition(scores: np.ndarray, threshold: float, refractory: int) -> list[int]:
    """Hops with an event, straight from the sentence that defines it."""
    high = scores >= np.float32(threshold)
    return [hop for hop in range(len(scores)) if high[hop] and not high[max(0, hop - refractory) : hop].any()]


@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=60), st.integers(1, 8), st.sampled_from([0.3, 0.5, 0.7]))
def test_events_are_those_of_the_definition(stream, refractory, threshold):
    scores = np.array(stream, np.float32).reshape(-1, 2)
    detector = Detector([threshold, 0.5], refractory)
    events = [(hop, keyword) for hop, row in enumerate(scores) for keyword in detector.step(row)]
    expected = [(hop, 0) for hop in by_definition(scores[:, 0], threshold, refractory)]
    expected += [(hop, 1) for hop in by_definition(scores[:, 1], 0.5, refractory)]
    assert events == sorted(expected)


def test_a_score_that_stays_high_is_one_event():
    detector = Detector([0.5], 1)
    assert [detector.step(np.array([0.9], np.float32)) for _ in range(5)] == [[0], [], [], [], []]


def test_a_score_equal_to_a_threshold_that_float32_rounds_down_is_high():
    assert float(np.float32(0.7)) < 0.7
    assert Detector([0.7], 1).step(np.array([0.7], np.float32)) == [0]


def test_reset_forgets_the_refractory_time():
    detector, high = Detector([0.5], 10), np.array([0.9], np.float32)
    assert detector.step(high) == [0]
    detector.reset()
    assert detector.step(high) == [0]


@pytest.mark.parametrize(("thresholds", "refractory"), [([], 3), ([0.5], 0)])
def test_senseless_settings_are_refused(thresholds, refractory):
    with pytest.raises(ValueError, match="at least one"):
        Detector(thresholds, refractory)


def test_a_wrong_number_of_scores_is_refused():
    with pytest.raises(ValueError, match="zip"):
        Detector([0.5, 0.5], 3).step(np.zeros(1, np.float32))
