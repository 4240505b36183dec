#!/usr/bin/env bash
# Installs what building needs and this machine lacks: Debian's packages, and LibTorch from the torch wheel in a virtual
# environment, unless Torch_DIR or CMAKE_PREFIX_PATH names one.
#
#   tools/setup.sh BUILD_DIR [--python]    --python: what tools/ and the tests in Python need, too
#
# LibTorch is the CPU build of PyTorch's own index: PyPI's needs a CUDA toolkit. TORCH_INDEX names another of PyTorch's
# indexes, such as https://download.pytorch.org/whl/cu130.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
packages=(cmake g++ make ninja-build ccache libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libpng-dev libstb-dev
  libboost-dev libicu-dev libssl-dev libgtest-dev libgmock-dev libjpeg62-turbo-dev pkgconf
  libavcodec-dev libavformat-dev libavutil-dev libswscale-dev)  # FFmpeg: for videos; libswscale: for the tests only
python3 -c "import ensurepip, venv" 2>/dev/null || packages+=(python3-venv)

if command -v dpkg-query >/dev/null; then
  missing=()
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -q
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qy --no-install-recommends "${missing[@]}"
  fi
else
  echo "not a Debian system: install the equivalents of ${packages[*]}"
fi

wanted=""
[ -n "${Torch_DIR:-}${CMAKE_PREFIX_PATH:-}" ] || wanted=torch
[ "${2:-}" = --python ] && wanted=all
[ -n "$wanted" ] || exit 0
stamp=$build/venv/installed-$wanted
if [ ! -e "$stamp" ] || [ tools/requirements.txt -nt "$stamp" ]; then
  mkdir -p "$build"
  [ -x "$build/venv/bin/python" ] || python3 -m venv "$build/venv"
  index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
  "$build/venv/bin/pip" install -q --retries 1 --extra-index-url "$index" "$(grep '^torch==' tools/requirements.txt)"
  [ "$wanted" = torch ] || "$build/venv/bin/pip" install -q -r tools/requirements.txt
  touch "$stamp"
fi
