"""The two matrix products of attention, with scores in float32 before the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

WIDE_PRODUCTS = ("cuda", "meta")  # devices that multiply half precision into a float32 result
CONVERTED_AT_ONCE = 2**18  # elements of keys or values that a CPU converts to float32: what its cache holds


def products(q_XTD: Tensor, k_XSD: Tensor, *, of_gradients: bool = False) -> Tensor:
    """Scores [X, T, S] = q k^T, in at least float32."""
    k_XDS = k_XSD.transpose(1, 2)
    if q_XTD.dtype.itemsize >= 4:
        return torch.bmm(q_XTD, k_XDS)
    if not of_gradients and q_XTD.device.type == "cpu":
        q = q_XTD.float()
        return torch.cat([torch.bmm(q, k.float()) for k in torch.split(k_XDS, _at_once(k_XSD), dim=2)], dim=2)
    if not of_gradients and q_XTD.device.type in WIDE_PRODUCTS:
        return torch.bmm(q_XTD, k_XDS, out_dtype=torch.float32)
    return torch.bmm(q_XTD, k_XDS).float()


def weighted(weights_XTS: Tensor, v_XSD: Tensor, *, of_gradients: bool = False) -> Tensor:
    """Weighted sums [X, T, D] of values."""
    if weights_XTS.dtype == v_XSD.dtype:
        return torch.bmm(weights_XTS, v_XSD)
    if of_gradients or v_XSD.device.type != "cpu":
        return torch.bmm(weights_XTS.to(v_XSD.dtype), v_XSD)
    size = _at_once(v_XSD)
    out = weights_XTS.new_zeros(*weights_XTS.shape[:2], v_XSD.shape[2])
    for weights, v in zip(torch.split(weights_XTS, size, dim=2), torch.split(v_XSD, size, dim=1), strict=True):
        out.baddbmm_(weights, v.to(weights.dtype))
    return out


def _at_once(x_XSD: Tensor) -> int:
    """The number of keys converted to float32 at a time on a CPU, whose products in half precision are slower."""
    return max(1, CONVERTED_AT_ONCE // (x_XSD.shape[0] * x_XSD.shape[2]))
