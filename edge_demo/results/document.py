"""results.md: tables of costs, quality and comparisons."""

import numpy as np

from edge_demo.evaluate.report import markdown
from edge_demo.results.plan import Plan
from edge_demo.results.rows import COLUMNS, FRR, Comparison, Row, base_pairs, compare, control_pairs, int8_pairs

PUBLISHED = """\
| model | published |
|---|---|
| B | 70 443 parameters |
| B′ | 25 387 parameters |
| KD | 305 167 MACs on 2 s of audio |
| KD2 | 186 924 MACs on 2 s of audio |
| AD+KD | 2 445 parameters |
| KD′ | 1 789 parameters, at temperature 5 and alpha 0.1 |
| at most, of all rows | 27 × smaller and 14 × fewer MACs than the base, with twice the base's error |
| GRU, quantization-aware training | given up by both |"""


def ranged(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean (lowest … highest)."""
    texts = [f"{value * scale:.{digits}f}" for value in (float(np.mean(values)), min(values), max(values))]
    return texts[0] if len(values) == 1 else f"{texts[0]} ({texts[1]} … {texts[2]})"


def cost_table(rows: list[Row]) -> str:
    """Ratios are against the first row. Controls are left out: they cost what their recipes do."""
    base = rows[0]
    heads = ["model", "parameters", "MACs per second", "MACs of 2 s, by thop", "weights, bytes", "ONNX file, bytes"]
    lines = [[*heads, "smaller", "fewer MACs", "faster", "epochs"]]
    for row in [row for row in rows if not row.training.alone]:
        ratios = base.weight_bytes / row.weight_bytes, base.macs_per_second / row.macs_per_second, row.speedup
        counts = row.parameters, row.macs_per_second, row.macs_by_thop, row.weight_bytes, row.file_bytes
        numbers = [f"{count:,.0f}".replace(",", " ") for count in counts]
        lines.append([row.name, *numbers, *(f"{ratio:.1f} ×" for ratio in ratios), str(row.epochs)])
    return markdown(lines)


def quality_table(rows: list[Row]) -> str:
    heads = ["model", *(column.title for column in COLUMNS)]
    place = 1 + [column.path for column in COLUMNS].index(FRR) + 1
    lines = [[*heads[:place], "95 % interval", *heads[place:]]]
    for row in rows:
        cells = [row.name]
        for column in COLUMNS:
            values = row.figures.get(column.path)
            cells.append(ranged(values, column.scale, column.digits) if values else "")
        lines.append([*cells[:place], " … ".join(f"{end * 100:.1f}" for end in row.frr_interval), *cells[place:]])
    return markdown(lines)


def comparison_table(pairs: list[tuple[Row, Row]]) -> str:
    """The first of each pair against the second, in points of FRR at 0.5 % FAR and of misses when streamed."""
    interval, verdict = "95 % interval", "better at 0.5 % FAR"
    lines = [["model", "against", "FRR at 0.5 % FAR, points", interval, "misses streamed, points", interval, verdict]]
    return markdown([*lines, *(comparison_line(compare(*pair)) for pair in pairs)])


def comparison_line(comparison: Comparison) -> list[str]:
    one, other = comparison.one.name, comparison.other.name
    cells = []
    for difference, low, high in (comparison.frr, comparison.streamed):
        cells += [f"{difference * 100:+.1f}", f"{low * 100:+.1f} … {high * 100:+.1f}"]
    _, low, high = comparison.frr
    better = one if high < 0 else other if low > 0 else "no difference shown"
    return [one, other, *cells, better]


def document(plan: Plan, rows: list[Row], pictures: list[str]) -> str:
    seeds = f"{len(plan.seeds)} random seed{'s' if len(plan.seeds) > 1 else ''}"
    command = "make table QUICK=1" if plan.quick else "make table"
    images = "\n\n".join(f"![{name.removesuffix('.png').replace('-', ' ')}]({name})" for name in pictures)
    return f"""# Results

Written by `{command}`, which trains recipes of `training/recipes`, {seeds} of each, for "{plan.keyword}".
B, KD, KD2, AD+KD and SP+AD+KD are models of kws_project, B′ and KD′ of kws-hw, two student projects on Speech Commands.
The others are Earshot's.
DQ: the same checkpoint with dynamic int8. SQ: with static int8, calibrated on training recordings. QAT: trained on for
`train.quantized_epochs` with everything rounded as static int8 rounds it. *alone*: the same student, schedule and data
without its teacher, where no other recipe is that.
Every figure is of the exported ONNX file, streamed hop by hop, on recordings of speakers that nothing was trained on
(`make evaluate`). Figures are means over the random seeds, with the lowest and the highest.

## Costs

MACs: multiply-accumulate operations of the network without its front end, as torch's `FlopCounterMode` sees them
run. thop, the counter of the student projects, adds biases and the GRU's element-wise operations. Smaller: by weight
bytes. Faster: by the median time of a step, all models in turn in one run on one machine, front end included.

{cost_table(rows)}

## Quality

FRR: of clips, each from zero state; its interval is over clips and seeds. The rest is at each model's own threshold:
false accepts in speech of four kinds and in the other words of the test set joined into one stream, and misses in
streams.

{quality_table(rows)}

## Small models against the base

Paired bootstrap over clips and seeds; negative: the first misses less. The last column goes by the FRR's interval.
Streamed: in the clean streams, each model at its own threshold.

{comparison_table(base_pairs(rows))}

## With and without a teacher

{comparison_table(control_pairs(rows))}

## int8 against float

Paired by training, too: both are one checkpoint, or the same checkpoint trained on.

{comparison_table(int8_pairs(rows))}

{images}

## Figures that the student projects published

On their own split, which shares speakers between training and test. Only sizes and MACs can be compared with the
figures above.

{PUBLISHED}
"""
