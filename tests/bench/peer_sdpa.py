"""peer_sdpa.py - torch SDPA (cuDNN and flash back ends) on the shapes of probe_prefill.cu."""

import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

SHAPES = [(128, 32, 8), (128, 64, 8), (64, 32, 8), (256, 16, 8), (96, 32, 32)]
LENS = [1024, 2048, 4096, 8192, 16384, 32768]
BACKENDS = [("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)]


def timed_ms(call, n):
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(n):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / n


def median_ms(call):
    timed_ms(call, 3)
    n = max(1, int(8 / timed_ms(call, 2)))
    return statistics.median(timed_ms(call, n) for _ in range(9))


def bench(head_dim, n_heads, n_kv_heads, length):
    """TFLOP/s of one causal prompt; grouped heads are expanded by torch where it must."""

    def noise(heads):  # as models have it: [1, heads, length, head_dim] over token-major memory
        x = torch.randn(1, length, heads, head_dim, device="cuda", dtype=torch.bfloat16)
        return x.transpose(1, 2)

    q, k, v = noise(n_heads), noise(n_kv_heads), noise(n_kv_heads)
    ms = median_ms(lambda: sdpa(q, k, v, is_causal=True, enable_gqa=n_heads != n_kv_heads))
    return 2 * length * length * head_dim * n_heads / ms * 1e-9


def row(name, backend, shape):
    figures = []
    for length in LENS:
        try:
            with sdpa_kernel(backend):
                figures.append(f"{bench(*shape, length):7.0f}")
        except RuntimeError:
            figures.append(f"{'-':>7}")
    print(f"{name:<6} hd{shape[0]:<3d} {shape[1]:2d}/{shape[2]:<2d} {'':19s}" + "".join(figures), flush=True)


def main():
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    print(f"{'TFLOP/s, causal bf16, batch 1':43s}"[:36] + "".join(f"{n:7d}" for n in LENS))
    for shape in SHAPES:
        for name, backend in BACKENDS:
            row(name, backend, shape)


if __name__ == "__main__":
    main()
