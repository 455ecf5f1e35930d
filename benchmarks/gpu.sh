#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds llama-cpp-python with CUDA and colm-cpp in a fresh environment, compares the
# engine with the oracle, and measures the bench table, look-ahead, and 1, 8 and 32 texts at once.
#
#     benchmarks/gpu.sh            results go to $OUT, or build/gpu
#     benchmarks/gpu.sh --cpu      every step without a GPU and with tiny settings, to try the script itself
#
# It needs Python 3.10 or newer, a C++ compiler, the CUDA toolkit (or, from PyPI, its wheels) and 8 GB of disk in
# TMPDIR. It asks nothing of the network but the package index: the models are made up, and so is their vocabulary.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "gpu.sh: $*" >&2; exit 1; }
mode=gpu
case "${1:-}" in
    "") ;;
    --cpu) mode=cpu ;;
    *) die "unknown argument $1; the only one is --cpu" ;;
esac
out=${OUT:-build/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()

# step NAME SECONDS COMMAND...: runs it with a limit. What it prints goes to NAME.txt, and a failure is told at the end.
step() {
    local name=$1 limit=$2 start=$SECONDS code=0
    shift 2
    if [ $mode = cpu ]; then limit=$((10 * limit)); fi # fewer cores, perhaps busy ones
    echo "== $name"
    timeout --signal=INT --kill-after=10 "$limit" "$@" > "$out/$name.txt" 2>&1 || code=$?
    if [ $code -ne 0 ]; then
        failed+=("$name")
        tail -n 30 "$out/$name.txt" >&2
        echo "$name failed with exit code $code (124: it took longer than $limit s); $out/$name.txt has all of it" >&2
    fi
    echo "| $name | $((SECONDS - start)) | $code |" >> "$out/summary.md"
    return $code
}
must() { step "$@" || exit 1; }

# -- what is there
llama=$(sed -n 's/^ *"\(llama-cpp-python==[0-9.]*\)",$/\1/p' pyproject.toml | head -n 1)
[ -n "$llama" ] || die "pyproject.toml names no version of llama-cpp-python"
command -v python3 > /dev/null || die "there is no python3; install Python 3.10 or newer"
command -v c++ > /dev/null || die "there is no C++ compiler; install one (Debian: g++)"
python3 -m venv "$work/venv" || die "python3 -m venv failed (Debian: install python3-venv)"
export PATH="$work/venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL

if [ $mode = gpu ]; then
    command -v nvidia-smi > /dev/null || die "there is no nvidia-smi: no NVIDIA driver is installed here; --cpu tries the script without"
    nvidia-smi -L > /dev/null 2>&1 || die "nvidia-smi finds no GPU: $(nvidia-smi 2>&1 | head -n 3)"
    card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
else
    card="no GPU (--cpu)" driver=none
fi
{
    echo "# $card"
    echo
    echo "driver $driver, $(nproc) cores, $(uname -sr), $(python3 --version), $llama, commit $(git rev-parse --short HEAD 2> /dev/null || echo unknown)"
    echo
    echo "| step | seconds | exit code |"
    echo "|---|---|---|"
} > "$out/summary.md"
cat "$out/summary.md"

# -- the CUDA compiler: PATH, the usual folder, or wheels
cuda_from_wheels() {
    local major
    major=$(nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p' | head -n 1)
    [ "${major:-0}" -ge 13 ] ||
        die "there is no nvcc, and driver $driver runs CUDA ${major:-of an unknown version}: the wheels that hold nvcc are of CUDA 13 and newer; install the CUDA toolkit"
    must cuda-wheels 180 pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-cccl nvidia-cuda-runtime nvidia-cublas
    CUDA_HOME=$(python -c 'import nvidia, pathlib; print(next(p for f in nvidia.__path__ for p in pathlib.Path(f).glob("cu*") if (p / "bin/nvcc").exists()))')
    # Wheels hold libraries by their versioned names alone, in lib; a linker and CMake look for others.
    local file
    for file in "$CUDA_HOME"/lib/lib*.so.*; do ln -sf "$(basename "$file")" "${file%%.so.*}.so"; done
    ln -sfn lib "$CUDA_HOME/lib64"
    chmod +x "$CUDA_HOME"/bin/* "$CUDA_HOME"/nvvm/bin/* 2> /dev/null || true
    export LD_LIBRARY_PATH="$CUDA_HOME/lib:${LD_LIBRARY_PATH:-}"
    cmake_args+=" -DGGML_CUDA_NO_VMM=ON" # the wheels have no libcuda.so to link
}

cmake_args="-DLLAVA_BUILD=OFF"
# Some virtual machines report AMX and then refuse its instructions.
if grep -qm1 amx_tile /proc/cpuinfo; then
    cmake_args+=" -DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
fi
if command -v ccache > /dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
fi
must tools 120 pip install scikit-build-core pybind11 "cmake>=3.24" ninja
if [ $mode = gpu ]; then
    if command -v nvcc > /dev/null; then
        CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    elif [ -x /usr/local/cuda/bin/nvcc ]; then
        CUDA_HOME=/usr/local/cuda
    else
        cuda_from_wheels
    fi
    export CUDA_HOME CUDACXX="$CUDA_HOME/bin/nvcc" PATH="$CUDA_HOME/bin:$PATH"
    "$CUDACXX" --version | tail -n 2
    # For this card alone; all architectures take several times as long.
    cmake_args+=" -DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=native -DCUDAToolkit_ROOT=$CUDA_HOME"
fi

# -- build
if [ $mode = gpu ]; then
    # pip's cache may hold a build without CUDA.
    CMAKE_ARGS=$cmake_args must llama 480 pip install --no-cache-dir --no-binary llama-cpp-python "$llama"
else
    must llama 360 pip install "$llama"
fi
must colm 180 pip install --no-build-isolation ".[plot]" pytest pytest-xdist
must device 60 python -c '
import sys
import colm_cpp._core as core
print(core.devices())
sys.exit(sys.argv[1] == "gpu" and not any(device["gpu"] for device in core.devices()))
' $mode
cat "$out/device.txt"

# -- measure. cuBLAS would round float32 to 10 bits (TF32), which the oracle does not.
layers=-1 pair=0.5B/7B tokens=64 rounds=3 texts="8 32"
if [ $mode = cpu ]; then layers=0 pair=tiny/tiny tokens=8 rounds=1 texts="2"; fi
models=$work/shapes
NVIDIA_TF32_OVERRIDE=0 step oracle 240 pytest -q -n 4 --dist loadfile -p no:cacheprovider \
    tests/python/test_oracle.py tests/python/test_expert_oracle.py tests/python/test_unlike_oracle.py \
    tests/python/test_lookahead.py tests/python/test_batch.py || true
step shapes 180 python benchmarks/shapes.py --pairs $pair --folder "$models" --tokens $tokens --rounds $rounds \
    --n-gpu-layers $layers --plot "$out/shapes.png" || true
given=(--base "$models/${pair%/*}.gguf" --assistant "$models/${pair#*/}.gguf")
step bench 120 colm bench "${given[@]}" --n-gpu-layers $layers --n-ctx 512 --tokens $tokens --rounds $rounds \
    --plot "$out/bench.png" --force || true
for n in $texts; do
    step "texts-$n" 120 python benchmarks/many_texts.py "${given[1]}" "${given[3]}" --head random --texts "$n" \
        --tokens $tokens --rounds 1 --n-gpu-layers $layers || true
done

echo "$SECONDS seconds in all" >> "$out/summary.md"
cat "$out/summary.md"
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}; the results are in $out"
echo "The results are in $out."
