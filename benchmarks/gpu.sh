#!/usr/bin/env bash
# Check and measure everything that needs a CUDA GPU, in under nine minutes.
#
#     benchmarks/gpu.sh [RESULTS] [EG3D]
#
# RESULTS: folder for JSON files and logs; default: benchmarks/results. EG3D: a checkout of the official
# code, measured on the same device. Environment variables: PYTHON, the interpreter (default: that of
# .venv, else python3); DRY_RUN=1 runs all steps on a CPU at tiny sizes, with interpreted kernels.
# Each step has a time limit. A failed step does not stop the others; the exit code is then 4.

set -u -o pipefail
cd "$(dirname "$0")/.."
results=${1:-benchmarks/results}
eg3d=${2:-}
python=${PYTHON:-$( [ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
dry=${DRY_RUN:-}
mkdir -p "$results"
results=$(cd "$results" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
device=cuda
limit_factor=1
failed=()

if [ -n "$dry" ]; then
    device=cpu
    limit_factor=4
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: torch of $python sees no CUDA device; use DRY_RUN=1 to run the steps on a CPU" >&2
    exit 2
fi

step() {  # name, time limit in seconds, command; the output goes to a log
    local name=$1 limit=$(($2 * limit_factor)) begin=$SECONDS
    shift 2
    echo "== $name"
    if timeout "$limit" "$@" > "$results/$name.log" 2>&1; then
        echo "   done in $((SECONDS - begin)) s"
    else
        echo "   FAILED with exit code $? after $((SECONDS - begin)) s; the end of $results/$name.log:"
        tail -n 15 "$results/$name.log" | sed 's/^/   | /'
        failed+=("$name")
    fi
}

preset=eg3d/ffhq512
[ -n "$dry" ] && preset=demo/triplane

step machine 20 "$python" -c '
import json, platform, sys, torch, triton
about = {"python": sys.version, "torch": torch.__version__, "triton": triton.__version__,
         "machine": platform.machine()}
if torch.cuda.is_available():
    p = torch.cuda.get_device_properties(0)
    about |= {"gpu": p.name, "memory": p.total_memory, "multiprocessors": p.multi_processor_count,
              "capability": [p.major, p.minor], "cuda": torch.version.cuda}
json.dump(about, open(sys.argv[1], "w"), indent=1)' "$results/machine.json"
tests=(tests/renderers tests/benchmark/test_memory.py tests/benchmark/test_cuda_graphs.py)
step tests 150 "$python" -m pytest -m gpu -rs -q -p no:cacheprovider "${tests[@]}"
if [ -n "$dry" ]; then
    TRITON_INTERPRET=1 step kernels 120 "$python" benchmarks/gpu_kernels.py \
        "$results/kernels.json" --dry-run
else
    step kernels 120 "$python" benchmarks/gpu_kernels.py "$results/kernels.json"
fi
step bench 150 "$python" -m lightning_gan3d.cli bench "$preset" --quick --root "$results" \
    --device "$device"
if [ -n "$eg3d" ]; then
    some=()
    [ -n "$dry" ] && some=(--only renderer_64_forward --precision fp32)
    step against 150 "$python" -m lightning_gan3d.cli bench --against "$eg3d" --quick \
        --device "$device" --out "$results/against.json" ${some[@]+"${some[@]}"}
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu.sh: failed: ${failed[*]}; the results of the other steps are in $results"
    exit 4
fi
echo "gpu.sh: all done; see $results"
