"""Quantized weights: quantized on loading, or already in the checkpoint."""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import UserError, brief, unknown
from lcbench.core.hub import explain

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Name on the command line -> the package that it needs.
SCHEMES = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "int8": "torchao"}
# `quant_method` of a checkpoint -> the packages that transformers needs to read it.
STORED = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "fp8": (),
    "gptq": ("optimum", "gptqmodel"),
    "torchao": ("torchao",),
}


def check_scheme(scheme: str | None) -> None:
    """Raises: UserError for a name that is not in `SCHEMES`, or whose package is not installed."""
    if scheme is None:
        return
    if scheme not in SCHEMES:
        raise unknown("quantization", scheme, SCHEMES)
    _require(f"--quantization {scheme}", (SCHEMES[scheme],))


def stored_scheme(name: str, config: PretrainedConfig) -> str | None:
    """The quantization method of the checkpoint, such as `gptq`; None if it is not quantized.

    Raises: UserError for a method that transformers does not know, or whose packages are not installed.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    method = str(stored.get("quant_method") or "") if isinstance(stored, dict) else str(stored.quant_method.value)
    if isinstance(stored, dict) and (stored.get("load_in_4bit") or stored.get("load_in_8bit")):
        method = "bitsandbytes"
    if not method:
        raise UserError(f"{name}: the quantization_config in its config.json has no quant_method.")
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING and method != "bitsandbytes":
        raise UserError(f"{name} is quantized by {brief(method)}, which transformers does not read.")
    _require(f"{name}, quantized by {method},", STORED.get(method, ()))
    return method


def check_environment(name: str, config: PretrainedConfig, method: str) -> None:
    """Raises: UserError where transformers says that this machine cannot load weights that are quantized so."""
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        stored = copy.deepcopy(config.quantization_config)  # which the check may change
        AutoHfQuantizer.from_config(stored, pre_quantized=True).validate_environment(device_map=None)
    except Exception as error:  # each method fails in its own ways
        raise UserError(f"{name}, quantized by {method}, cannot be loaded here: {explain(error)}") from error


def loading_options(scheme: str, dtype: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantize: NF4 with double quantization as in QLoRA, LLM.int8(), or torchao's
    weight-only int8."""
    if scheme == "int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about every call in another dtype than float16
    if scheme == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": nf4}


def _require(what: str, packages: tuple[str, ...]) -> None:
    missing = [package.replace("_", "-") for package in packages if find_spec(package) is None]
    if missing:
        names = " and ".join(missing)
        raise UserError(f"{what} needs {names}, which is not installed; pip install {' '.join(missing)}.")
