# make demo: builds, and shows what DeepCache does. make test: builds, and runs all tests. Both install what is missing.

BUILD ?= build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTHON = $(BUILD)/venv/bin/python
export Torch_DIR CMAKE_PREFIX_PATH

# Where LibTorch is: what the environment names, or else the wheel in the virtual environment.
TORCH_FLAG = $(if $(Torch_DIR)$(CMAKE_PREFIX_PATH),,-DCMAKE_PREFIX_PATH="$$($(PYTHON) -W ignore -c 'import torch; print(torch.utils.cmake_prefix_path)')")
CONFIGURE = cmake -S . -B $(BUILD) -G Ninja -DCMAKE_CXX_COMPILER_LAUNCHER=ccache $(TORCH_FLAG)

.PHONY: all demo test setup setup-python
all: setup
	$(CONFIGURE) -DDEEPCACHE_BUILD_TESTS=OFF
	cmake --build $(BUILD) -j $(JOBS)

demo: all
	mkdir -p $(BUILD)/demo
	$(BUILD)/bin/txt2img -m models/emoji --steps 50 --cfg-scale 4 --compare \
	  -p "red heart" -p "panda" -p "sunflower" -p "green apple" -p "soccer ball" -p "purple apple" \
	  -o $(BUILD)/demo/emoji.png --contact-sheet $(BUILD)/demo/contact_sheet.png --report $(BUILD)/demo/report.json
	@echo "full and cached side by side: $(BUILD)/demo/contact_sheet.png"

test: setup-python
	$(CONFIGURE) -DDEEPCACHE_BUILD_TESTS=ON -DDEEPCACHE_PYTHON=$(abspath $(PYTHON))
	cmake --build $(BUILD) -j $(JOBS)
	ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure

setup:
	tools/setup.sh $(BUILD)

setup-python:
	tools/setup.sh $(BUILD) --python
