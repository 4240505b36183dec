# make demo: builds, and shows what DeepCache does. make test: builds, and runs all tests. make bench: builds, and measures
# beside other packages (BENCH_ARGS: flags of bench/compare.py). All install what is missing. The library's sources are
# compiled by sixteens, which is sooner done; where you change them, configure by CMake without that, or with
# CMAKE_FLAGS=-DCMAKE_UNITY_BUILD=OFF (flags for CMake).

BUILD ?= build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTHON = $(BUILD)/venv/bin/python
export Torch_DIR CMAKE_PREFIX_PATH

# Where LibTorch is: what the environment names, or else the wheel in the virtual environment.
TORCH_FLAG = $(if $(Torch_DIR)$(CMAKE_PREFIX_PATH),,-DCMAKE_PREFIX_PATH="$$($(PYTHON) -W ignore -c 'import torch; print(torch.utils.cmake_prefix_path)')")
CONFIGURE = cmake -S . -B $(BUILD) -G Ninja -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_UNITY_BUILD=ON $(TORCH_FLAG) $(CMAKE_FLAGS)

.PHONY: all demo test bench setup setup-python setup-peers
all: setup
	$(CONFIGURE) -DDEEPCACHE_BUILD_TESTS=OFF
	cmake --build $(BUILD) -j $(JOBS)

demo: all
	mkdir -p $(BUILD)/demo
	$(BUILD)/bin/txt2img -m models/emoji --steps 50 --cfg-scale 4 --compare \
	  -p "red heart" -p "panda" -p "sunflower" -p "soccer ball" -p "blue banana" -p "purple apple" \
	  -o $(BUILD)/demo/emoji.png --contact-sheet $(BUILD)/demo/contact_sheet.png --report $(BUILD)/demo/report.json
	@echo "full and cached side by side: $(BUILD)/demo/contact_sheet.png"

test: setup-python
	$(CONFIGURE) -DDEEPCACHE_BUILD_TESTS=ON -DDEEPCACHE_PYTHON=$(abspath $(PYTHON))
	cmake --build $(BUILD) -j $(JOBS)
	ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure

bench: setup-python setup-peers all
	python3 bench/compare.py $(BENCH_ARGS)

setup:
	tools/setup.sh $(BUILD)

setup-python:
	tools/setup.sh $(BUILD) --python

setup-peers: build/peers/installed build/peers_ggml/installed
build/peers/installed: bench/peers/requirements.txt
build/peers_ggml/installed: bench/peers/requirements_ggml.txt
build/peers%installed:
	[ -x $(@D)/bin/python ] || python3 -m venv $(@D)
	CMAKE_ARGS="-DSD_WEBP=OFF -DSD_WEBM=OFF" $(@D)/bin/pip install -q --retries 1 \
	  --extra-index-url https://download.pytorch.org/whl/cpu -r $<
	touch $@
