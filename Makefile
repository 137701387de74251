# Earshot. `make export` and `make test` are all a newcomer needs; each sets up .venv by itself.

PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --require-hashes
PIP_WHEEL := $(PY) -m pip wheel --quiet --no-deps --wheel-dir dist . --no-build-isolation
MODELS := $(patsubst %/,%,$(sort $(dir $(wildcard models/*/model.safetensors))))
RECIPE ?= base
# What a user gives is text: make would run a $(shell …) in it, and the shell what follows a semicolon. So make takes it as it
# is, and recipes read it from the environment: "$$WAV", or $$BUNDLE where it may be a list.
GIVEN := BUNDLE CONFIG DEVICE FORCE FROM HOURS IMAGE KEYWORD MODELS OUT PEERS PI PYTHON QUICK RECIPE RECIPES RETRAIN ROLLBACK \
  SEED SETTINGS SPEAKER VERSION WAV WORD
$(foreach name,$(GIVEN),$(if $(value $(name)),$(eval override export $(name) := $$(value $(name)))))
export PYTHON := $(or $(PYTHON),$(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3))
override export DIST := $(MODELS:models/%=dist/%)
override export BUNDLES := $(or $(BUNDLE),dist/happy-ensemble)
SYSTEM := portaudio19-dev espeak-ng flite wamerican festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
# To build for arm64, to put files into images, and to boot them.
IMAGE_SYSTEM := mmdebstrap debian-archive-keyring qemu-user-static binfmt-support patchelf rsync openssh-client \
  fdisk dosfstools mtools e2fsprogs kmod cpio zstd qemu-system-arm qemu-system-gui qemu-efi-aarch64 pulseaudio pulseaudio-utils
# To compile the C engine for Raspberry Pis and microcontrollers, and to emulate them.
MACHINES_SYSTEM := gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross \
  gcc-arm-linux-gnueabi libc6-dev-armel-cross gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-user-static qemu-system-arm
TEST_SYSTEM := clang pulseaudio pulseaudio-utils libasound2-plugins mosquitto openssl faketime chromium chromium-driver \
  openssh-server rsync fdisk dosfstools mtools shellcheck qemu-user-static

.PHONY: help help-all export wheel demo record data train measure evaluate compare bench table ablation fuzz-engine soak test-machines machines-system \
  test-arm64 deploy flash image test-image test test-all check pytest lock clean system test-system image-system
.DEFAULT_GOAL := help

# `##@` begins a group of targets; `target: … ## text` is in `make help`, `target: … ##+ text` in `make help-all` alone.
# $(1): anything, for all of them
define list
@awk -v all='$(1)' '/^##@ / {print "\n" substr($$0, 5)} \
  /^[a-z0-9-]+:.* ##[+]? / && (all || !/ ##[+] /) { \
    name = text = $$0; sub(/:.*/, "", name); sub(/.* ##[+]? /, "", text); printf "  make %-12s %s\n", name, text}' Makefile
endef

help:
	$(call list,)
	@echo
	@echo 'make help-all lists the other targets. EARSHOT_DATA=folder names your recordings (docs/training.md);'
	@echo 'BUNDLE is dist/happy-ensemble by default; BUNDLE="dist/a dist/b" names several.'

help-all:
	$(call list,all)

##@ Use it
export: .venv/ready ## every shipped checkpoint → a verified bundle in dist/
	$(PY) -m export $$MODELS --out dist

demo: .venv/ready ## a picture of a recording: level, mel, score, events (WAV=file.wav BUNDLE=…)
	$(PY) -m edge_demo.demo $(if $(WAV),"$$WAV") $(if $(BUNDLE),--bundle="$$BUNDLE")

wheel: export ## the runtime with the default bundles as a Python package: dist/earshot-*.whl
	$(PIP_WHEEL)
	@ls dist/earshot-*.whl

##@ Train
record: .venv/ready ## say your word into the microphone, guided (WORD="hey juniper" SPEAKER=ann; FROM=folder of files)
	$(PY) -m training.record $(if $(FROM),--from="$$FROM") $(if $(SPEAKER),--speaker="$$SPEAKER") \
	  $(if $(DEVICE),--device="$$DEVICE") -- "$$WORD"

data: .venv/ready ## download Speech Commands into data/speech_commands (VERSION=0.01 or 0.02)
	$(PY) -m training.data.download $(if $(VERSION),--version="$$VERSION")

train: .venv/ready ## train a recipe on EARSHOT_DATA (RECIPE=ensemble KEYWORD=marvin SEED=1)
	$(PY) -m training.train "$$RECIPE" $(if $(KEYWORD),--keyword="$$KEYWORD") $(if $(SEED),--seed="$$SEED")

measure: .venv/ready ##+ choose the int8 form of every shipped checkpoint, on EARSHOT_DATA
	$(PY) -m export.int8.measure $$MODELS

##@ Measure
evaluate: .venv/ready $(if $(PEERS),.venv-peers/ready) ## false accepts, misses, DET curve (BUNDLE=…; PEERS=1: microWakeWord too)
	$(PY) -m edge_demo.evaluate $$BUNDLE $(if $(PEERS),--peers .venv-peers/bin/python)

compare: .venv/ready ## int8 against float: misses, and drift in an hour (BUNDLE=…, or every bundle)
	$(PY) -m edge_demo.evaluate.compare $(if $(BUNDLE),$$BUNDLE,$$DIST)

bench: export $(if $(PEERS),.venv-peers/ready) ## CPU, memory and start-up beside torch (PEERS=1: other detectors too)
	$(PY) edge_demo/bench $$DIST --plot docs/benchmarks.png \
	  $(if $(PEERS),--peers .venv-peers/bin/python)

table: .venv/ready ##+ every recipe and its control, three seeds, into docs/results.md (RECIPES="base mine" RETRAIN=1 QUICK=1)
	$(PY) -m edge_demo.results.table $$RECIPES $(if $(RETRAIN),--runs runs/retrained) $(if $(QUICK),--quick --runs runs/quick --out runs/quick)

ablation: .venv/ready ##+ one recipe with one thing changed at a time, into docs/ablation.md
	$(PY) -m edge_demo.results.ablation wide

test-machines: export | test-system machines-system ##+ the C engine on emulated Raspberry Pis and microcontrollers
	$(PY) -m pytest -m slow tests/runtime/c/test_c_machines.py tests/edge_demo/bench/test_bare_metal.py
	$(PY) -m edge_demo.bench.bare_metal $$DIST

fuzz-engine: .venv/ready | test-system ##+ a million inputs as weights of the C engine, under sanitizers
	mkdir -p dist/fuzz
	clang -std=c99 -g -O2 -fsanitize=fuzzer,address,undefined,float-cast-overflow -fno-sanitize-recover=all \
	  -o dist/fuzz/fuzz tests/runtime/c/fuzz.c
	$(PY) -m tests.runtime.c.corpus dist/fuzz/corpus
	cd dist/fuzz && ./fuzz -runs=1000000 -max_len=4096 corpus

soak: export ##+ 24 hours of audio as fast as it goes (HOURS=2 BUNDLE=…)
	$(PY) -m edge_demo.bench.soak $$BUNDLE $(if $(HOURS),--hours="$$HOURS")

test-arm64: export | image-system ##+ listen.py and every score on an emulated arm64, against this machine's
	$(PY) -m edge_demo.deploy.arm64_check $(if $(BUNDLE),$$BUNDLE,$$DIST)

##@ Pi
OPTIONS = $(if $(CONFIG),--config="$$CONFIG") $$BUNDLES

deploy: export | image-system ## onto a Pi that runs, over ssh (PI=user@host BUNDLE=… CONFIG=earshot.toml; ROLLBACK=1 goes back)
	$(PY) -m edge_demo.deploy $(if $(PI),"$$PI",$(error PI=user@host is missing: see make help)) \
	  $(if $(ROLLBACK),--rollback) $(OPTIONS)

flash: export | image-system ## onto a card, as root (IMAGE=os.img.xz DEVICE=/dev/sdb, or OUT=file.img; SETTINGS=kitchen.toml)
	$(PY) -m edge_demo.deploy.flash --image=$(if $(IMAGE),"$$IMAGE",$(error IMAGE=file.img.xz is missing: see make help)) \
	  $(if $(OUT),--out="$$OUT") $(if $(DEVICE),--device="$$DEVICE") $(if $(FORCE),--force="$$FORCE") \
	  $(if $(SETTINGS),--settings="$$SETTINGS") $(OPTIONS)

image: export | image-system ## a bootable Debian for other arm64 boards, as root: dist/image/earshot.img
	$(PY) -m edge_demo.deploy.image $(OPTIONS)

test-image: image ##+ boot that image, play the keyword, cut the power, ten times, as root
	$(PY) -m edge_demo.deploy.boot_test dist/image/earshot.img $$BUNDLES

##@ Develop
test: .venv/ready | test-system ## lint, types, tests (EARSHOT_DATA=folder adds the tests on real recordings)
	@$(MAKE) --no-print-directory --jobs 2 check pytest

test-all: check export | test-system machines-system ##+ also 100 000 malformed inputs of each kind, faults that last minutes, the soak
	$(PY) -m pytest -m ''
	$(PY) -m edge_demo.bench.soak $$BUNDLE

check: .venv/ready ##+ lint and types alone
	$(PY) -m ruff check .
	$(PY) -m mypy

pytest: .venv/ready | test-system ##+ tests alone
	$(PY) -m pytest -n 2 --dist loadfile

# For Python 3.11 to 3.13, x86-64 and arm64: one version of each package that fits all. The device's and the peers' are ours.
# make.lock is uv alone, which looks for the others, and for the next uv.
LOCK := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
  --upgrade --custom-compile-command "make lock"
lock: ##+ the newest versions that requirements.txt allows, with their SHA-256: *.lock
	"$$PYTHON" -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --require-hashes --requirement make.lock
	$(LOCK) requirements.txt --output-file requirements.lock
	printf '%s\n' soxr wyoming | $(LOCK) --constraints requirements.lock runtime/requirements.txt - \
	  --output-file runtime/requirements.lock
	printf '%s\n' pymicro-wakeword==2.5.0 pyopen-wakeword==1.1.0 | $(LOCK) --constraints requirements.lock - \
	  --output-file edge_demo/bench/peers.lock
	echo uv | $(LOCK) - --output-file make.lock

clean: ## remove .venv and dist
	rm -rf .venv .venv-peers .venv-lock dist

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

# $(1): packages of Debian's, $(2): what for
define install
@if dpkg --status $(1) >/dev/null 2>&1; then :; \
elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1) >/dev/null; then :; \
else echo "for $(2): sudo apt-get install $(1)"; fi
endef

system:
	$(call install,$(SYSTEM),the microphone and synthesised speech)

machines-system:
	$(call install,$(MACHINES_SYSTEM),the C engine on other machines)

test-system:
	$(call install,$(TEST_SYSTEM),the tests of microphone and browser and broker and deployment)

# The Arm emulator has to be known to the kernel, which installing it sees to where it may.
image-system:
	$(call install,$(IMAGE_SYSTEM),arm64 and images)
	@if [ "$$(id -u)" = 0 ]; then update-binfmts --enable qemu-aarch64 || true; fi
