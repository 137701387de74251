# Earshot. `make export` and `make test` are all a newcomer needs; each sets up .venv by itself.

PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --require-hashes
MODELS := $(patsubst %/,%,$(sort $(dir $(wildcard models/*/model.safetensors))))
RECIPE ?= base
# What a user gives is text: make would run a $(shell …) in it, and the shell what follows a semicolon. So make takes it as it
# is, and recipes read it from the environment: "$$WAV", or $$BUNDLE where it may be a list.
GIVEN := BUNDLE CONFIG DEVICE FORCE HOURS IMAGE KEYWORD MODELS OUT PEERS PI PYTHON QUICK RECIPE RECIPES RETRAIN ROLLBACK SEED \
  SETTINGS VERSION WAV
$(foreach name,$(GIVEN),$(if $(value $(name)),$(eval override export $(name) := $$(value $(name)))))
export PYTHON := $(or $(PYTHON),$(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3))
override export DIST := $(MODELS:models/%=dist/%)
override export BUNDLES := $(or $(BUNDLE),dist/happy-ensemble)
SYSTEM := portaudio19-dev espeak-ng flite wamerican
# To build for arm64, to put files into images, and to boot them.
IMAGE_SYSTEM := mmdebstrap debian-archive-keyring qemu-user-static binfmt-support patchelf rsync openssh-client \
  fdisk dosfstools mtools e2fsprogs kmod cpio zstd qemu-system-arm qemu-system-gui qemu-efi-aarch64 pulseaudio pulseaudio-utils
TEST_SYSTEM := pulseaudio pulseaudio-utils libasound2-plugins mosquitto openssl faketime chromium chromium-driver \
  openssh-server rsync fdisk dosfstools mtools shellcheck qemu-user-static

.PHONY: help export check test pytest test-all soak train table ablation data demo evaluate compare measure bench test-arm64 \
  deploy flash image test-image lock system test-system image-system clean
.DEFAULT_GOAL := help

help:
	@echo "make export                 export every shipped checkpoint into dist/"
	@echo "make test                   lint, type check, test (EARSHOT_DATA=folder adds the tests on real recordings)"
	@echo "make test-all               the same with 100 000 fuzzed inputs of each kind, minutes-long faults, the soak"
	@echo "make soak                   24 hours of audio as fast as it goes (HOURS=2, BUNDLE=dist/happy-ensemble)"
	@echo "make train RECIPE=base      train; KEYWORD=computer SEED=1 replace the recipe's; data from EARSHOT_DATA"
	@echo "make table                  every recipe, its control, three seeds: train what is missing, measure, docs/results.md;"
	@echo "                            RETRAIN=1 from scratch in runs/retrained, QUICK=1 its shape in an hour in runs/quick;"
	@echo "                            RECIPES=\"base mine\" these alone, in runs/table"
	@echo "make ablation               wide on a short schedule with one thing changed at a time: docs/ablation.md"
	@echo "make data                   download Speech Commands into data/speech_commands (VERSION=0.01 or 0.02)"
	@echo "make evaluate BUNDLE=dist/happy-ensemble   false accepts, misses, DET; PEERS=1 adds microWakeWord's"
	@echo "make compare                int8 against float: misses, and drift in an hour (BUNDLE=dist/happy-ensemble)"
	@echo "make measure                choose the int8 form of every shipped checkpoint, on EARSHOT_DATA"
	@echo "make test-arm64             listen.py and every score on an emulated arm64, against this machine's"
	@echo "make demo WAV=file.wav      picture of level, mel and score, events marked (BUNDLE=dist/happy-ensemble)"
	@echo "make bench                  CPU, memory and start-up beside torch; PEERS=1 adds pymicro- and pyopen-wakeword"
	@echo "make deploy PI=user@host    put it on a Raspberry Pi that runs (BUNDLE=… CONFIG=earshot.toml; ROLLBACK=1 goes back)"
	@echo "make flash IMAGE=os.img.xz DEVICE=/dev/sdb   put it on a card with Raspberry Pi OS Lite; OUT=file.img instead"
	@echo "                            of DEVICE, SETTINGS=kitchen.toml for host name, user, Wi-Fi (needs root)"
	@echo "make image                  a bootable Debian for arm64 boards, into dist/image/earshot.img (needs root)"
	@echo "make test-image             boot that, say the keyword, cut the power, ten times (needs root)"
	@echo "make lock                   the newest versions that requirements.txt allows, with their SHA-256: *.lock"
	@echo "make clean                  remove .venv and dist"

export: .venv/ready
	$(PY) -m export $$MODELS --out dist

check: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m mypy

test: .venv/ready | test-system
	@$(MAKE) --no-print-directory --jobs 2 check pytest

pytest: .venv/ready | test-system
	$(PY) -m pytest -n 2 --dist loadfile

test-all: check export | test-system
	$(PY) -m pytest -m ''
	$(PY) -m edge_demo.bench.soak $$BUNDLE

soak: export
	$(PY) -m edge_demo.bench.soak $$BUNDLE $(if $(HOURS),--hours="$$HOURS")

train: .venv/ready
	$(PY) -m training.train "$$RECIPE" $(if $(KEYWORD),--keyword="$$KEYWORD") $(if $(SEED),--seed="$$SEED")

table: .venv/ready
	$(PY) -m edge_demo.results.table $$RECIPES $(if $(RETRAIN),--runs runs/retrained) $(if $(QUICK),--quick --runs runs/quick --out runs/quick)

ablation: .venv/ready
	$(PY) -m edge_demo.results.ablation wide

data: .venv/ready
	$(PY) -m training.data.download $(if $(VERSION),--version="$$VERSION")

evaluate: .venv/ready $(if $(PEERS),.venv-peers/ready)
	$(PY) -m edge_demo.evaluate $$BUNDLE $(if $(PEERS),--peers .venv-peers/bin/python)

compare: .venv/ready
	$(PY) -m edge_demo.evaluate.compare $(if $(BUNDLE),$$BUNDLE,$$DIST)

measure: .venv/ready
	$(PY) -m export.int8.measure $$MODELS

test-arm64: export | image-system
	$(PY) -m edge_demo.deploy.arm64_check $(if $(BUNDLE),$$BUNDLE,$$DIST)

demo: .venv/ready
	$(PY) -m edge_demo.demo $(if $(WAV),"$$WAV") $(if $(BUNDLE),--bundle="$$BUNDLE")

bench: export $(if $(PEERS),.venv-peers/ready)
	$(PY) edge_demo/bench $$DIST --plot docs/benchmarks.png \
	  $(if $(PEERS),--peers .venv-peers/bin/python)

OPTIONS = $(if $(CONFIG),--config="$$CONFIG") $$BUNDLES

deploy: export | image-system
	$(PY) -m edge_demo.deploy $(if $(PI),"$$PI",$(error PI=user@host is missing: see make help)) \
	  $(if $(ROLLBACK),--rollback) $(OPTIONS)

flash: export | image-system
	$(PY) -m edge_demo.deploy.flash --image=$(if $(IMAGE),"$$IMAGE",$(error IMAGE=file.img.xz is missing: see make help)) \
	  $(if $(OUT),--out="$$OUT") $(if $(DEVICE),--device="$$DEVICE") $(if $(FORCE),--force="$$FORCE") \
	  $(if $(SETTINGS),--settings="$$SETTINGS") $(OPTIONS)

image: export | image-system
	$(PY) -m edge_demo.deploy.image $(OPTIONS)

test-image: image
	$(PY) -m edge_demo.deploy.boot_test dist/image/earshot.img $$BUNDLES

# In an environment of their own: nothing of theirs in ours.
.venv-peers/ready: edge_demo/bench/peers.lock
	"$$PYTHON" -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --require-hashes --requirement $<
	touch $@

# Left out: PyAudio where PortAudio's header is not, as it is built here (everything but the microphone works without); torch
# and its CUDA where .venv has a torch of that version, such as a CPU build. What builds PyAudio and ttspico has a hash too:
# setuptools comes first, and pip fetches no other.
.venv/ready: requirements.lock | system
	test -x $(PY) || "$$PYTHON" -m venv .venv
	without='^$$'; \
	echo '#include <portaudio.h>' | cc -E - >/dev/null 2>&1 || without="$$without|^pyaudio=="; \
	torch=$$($(PY) -c 'from importlib.metadata import version; print(version("torch").partition("+")[0])' 2>/dev/null); \
	if grep -q "^torch==$$torch " $<; then without="$$without|^(torch==|triton==|cuda-|nvidia-)"; fi; \
	awk -v without="$$without" '/^[^ #]/ {keep = $$0 !~ without} keep' $< > .venv/wanted.txt
	awk '/^[^ #]/ {keep = /^setuptools==/} keep' $< > .venv/first.txt
	$(PIP) --requirement .venv/first.txt
	$(PIP) --no-build-isolation --use-pep517 --requirement .venv/wanted.txt
	touch $@

# For Python 3.11 to 3.13, x86-64 and arm64: one version of each package that fits all. The device's and the peers' are ours.
LOCK := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
  --upgrade --custom-compile-command "make lock"
lock:
	"$$PYTHON" -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	$(LOCK) requirements.txt --output-file requirements.lock
	printf '%s\n' soxr wyoming | $(LOCK) --constraints requirements.lock runtime/requirements.txt - \
	  --output-file runtime/requirements.lock
	printf '%s\n' pymicro-wakeword==2.5.0 pyopen-wakeword==1.1.0 | $(LOCK) --constraints requirements.lock - \
	  --output-file edge_demo/bench/peers.lock

# $(1): packages of Debian's, $(2): what for
define install
@if dpkg --status $(1) >/dev/null 2>&1; then :; \
elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1) >/dev/null; then :; \
else echo "for $(2): sudo apt-get install $(1)"; fi
endef

system:
	$(call install,$(SYSTEM),the microphone and synthesised speech)

test-system:
	$(call install,$(TEST_SYSTEM),the tests of microphone and browser and broker and deployment)

# The Arm emulator has to be known to the kernel, which installing it sees to where it may.
image-system:
	$(call install,$(IMAGE_SYSTEM),arm64 and images)
	@if [ "$$(id -u)" = 0 ]; then update-binfmts --enable qemu-aarch64 || true; fi

clean:
	rm -rf .venv .venv-peers .venv-lock dist
