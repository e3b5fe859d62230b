"""Published points that fits use, typed in with their sources; SI units.

Facts only; knows no model.
"""

from __future__ import annotations

__all__ = [
    "CPU_CURVES", "CPU_LAYER", "CPU_SOURCE", "CPU_TOKENS", "FORMATS", "FORMATS_SOURCE", "LAYER_SOURCE", "MESS", "MESS_SOURCE",
    "MIXTRAL_ATTENTION", "MIXTRAL_MATMUL", "PAGEABLE", "PINNED", "PLATFORM",
]  # fmt: skip

PLATFORM = "jimmy01081122/platform (measured, RTX PRO 6000, PCIe 4 x16)"
PINNED = {4096: 28.9e-6, 65536: 27.5e-6, 1048576: 50.7e-6, 4194304: 174.5e-6, 16777216: 643.6e-6, 352321536: 12510e-6,
          1410000000: 49930e-6}  # fmt: skip
"""Bytes -> seconds of a copy from pinned host memory to the GPU."""
PAGEABLE = {1048576: 92.7e-6, 16777216: 750.8e-6, 352321536: 19150e-6, 1410000000: 76000e-6}
"""Bytes -> seconds of a copy from pageable host memory to the GPU."""
MIXTRAL_MATMUL = {1: 1.84e-3, 4: 1.80e-3, 16: 1.91e-3, 64: 2.09e-3, 128: 2.41e-3, 256: 4.13e-3, 312: 4.92e-3, 4403: 60.4e-3,
                  9555: 137.5e-3}  # fmt: skip
"""Tokens per expert -> seconds of the matrix products of one Mixtral-8x7B layer, all 8 experts, BF16, vLLM eager."""
MIXTRAL_ATTENTION = {128: 0.181e-3, 512: 0.231e-3, 2048: 0.664e-3, 4096: 1.372e-3, 8192: 3.368e-3, 16384: 9.333e-3}
"""Context -> seconds of the attention of one Mixtral-8x7B layer while prefilling, vLLM eager."""

CPU_SOURCE = "KTransformers (SOSP 2025), figure onednn_1, digitised: Xeon 8452Y, one socket, DeepSeek-V3 expert, BF16"
CPU_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CPU_CURVES = {
    "amx_tuned": (0.194, 0.387, 0.764, 1.523, 3.01, 5.93, 9.36, 14.8, 19.4, 20.7, 21.5),
    "amx_stock": (0.126, 0.24, 0.455, 0.86, 1.44, 2.34, 3.34, 4.31, 5.33, 5.02, 4.97),
    "avx512": (0.136, 0.237, 0.418, 0.673, 0.99, 1.28, 1.47, 1.70, 1.75, 1.75, 1.75),
}
"""Kernel -> TFLOPS at `CPU_TOKENS` tokens per expert: KTransformers AMX, PyTorch AMX, PyTorch AVX-512."""
LAYER_SOURCE = "KTransformers, figure amx_avx, digitised: DeepSeek-V3 layer, equal tokens per expert, both sockets presumably"
CPU_LAYER = {
    "amx": (91.7e-3, 91.1e-3, 93.5e-3, 91.8e-3, 91.9e-3, 92.4e-3, 92.9e-3, 93.3e-3),
    "avx512": (72.1e-3, 73.3e-3, 76.7e-3, 85.3e-3, 95.7e-3, 105.2e-3, 115.9e-3, 126.3e-3),
}
"""Kernel -> seconds of one layer (256 experts) at 1 to 8 tokens per expert."""
FORMATS_SOURCE = (
    "KTransformers, figure Combined_MoE_time_per_layer: Xeon Gold 6454S, DeepSeek-Coder-V2, 1 token, 141.6 M weights"
)
FORMATS = {
    "fp16": (1316e-6, 215e9), "bf16": (1379e-6, 205e9), "q8_0": (752e-6, 200e9), "q6_k": (635e-6, 183e9),
    "q5_k_m": (574e-6, 175e9), "q4_k_m": (519e-6, 166e9), "q3_k_m": (447e-6, 155e9), "q2_k": (354e-6, 145e9),
}  # fmt: skip
"""Format -> (seconds of one layer, stored bytes per second), whose product is the stored bytes."""

MESS_SOURCE = "Mess benchmark (MICRO 2024), measured bandwidth-latency curves"
MESS = {
    "Xeon 8480+": (115e-9, (132e-9, 151e-9, 182e-9)),
    "Xeon 8460Y+": (110e-9, (123e-9, 139e-9, 162e-9)),
    "Xeon Max 9480 HBM": (128e-9, (149e-9, 161e-9, 185e-9)),
    "EPYC 7742": (120e-9, (140e-9, 147e-9, 151e-9)),
    "Grace 72C": (176e-9, (193e-9, 222e-9, 261e-9)),
}
"""System -> idle latency, and read latency in seconds at 50, 75 and 90 % of its own maximum."""
