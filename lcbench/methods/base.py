"""What a method is: three hooks, each a pure function of positions, and four that look at queries and keys.

    frequencies   which rotation a position means     (PI, NTK, YaRN, ...)
    pieces        which keys a query sees, and where  (Self-Extend, DCA, ...)
    score_scale   a factor on the scores of a query   (log-length scaling)

    select        which of these keys a prompt's queries see, by head    (MInference, XAttention)
    rate_pages    which pages of keys a query of the answer sees         (Quest)
    evict         which keys a KV head keeps after the prompt            (SnapKV, H2O, ...)
    recall        which blocks of keys any query sees, by earlier ones   (InfLLM)

A method overrides the hooks it needs; `a + b` (on the command line `a+b`) composes methods that use different ones.
Methods know nothing of models, caches or backends: `lcbench.attention` runs any of them on any rotary model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.core.specs import write
from lcbench.methods.content import Content, ContentHooks, Selection
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

REGISTRY: dict[str, type[Method]] = {}
HOOKS = {  # with what two methods that both override one of them are
    "frequencies": "RoPE scalings",
    "pieces": "position plans",
    "score_scale": "score scalings",
    "select": "sparse prefills",
    "rate_pages": "choices of pages",
    "evict": "evictions",
    "recall": "memories",
}
ANSWER = frozenset({"rate_pages", "evict"})  # hooks that look at queries and keys, and change what an answer sees
READING = frozenset({"select", "recall"})  # and what queries of a prompt see, by choice of others, some of them later
CONTENT = ANSWER | READING


@dataclass(frozen=True)
class Lengths:
    """The two lengths, in tokens, from which default options are computed.

    `pretraining` is the length the model was trained for (`trained_length`); `run` is the whole length of the run,
    prompt and generation budget together, or None if the caller did not give it.
    """

    pretraining: int
    run: int | None = None

    def __post_init__(self) -> None:
        if self.run is not None and (not isinstance(self.run, int) or self.run < 1):
            raise UserError(f"the length of a run is a whole number of tokens from 1, not {self.run!r}.")

    def need_run(self, method: str, what: str, way_out: str = "") -> int:
        """The run's length. Raises: UserError if it is unknown, since `what` of `method` follows from it."""
        if self.run is None:
            raise UserError(f"{method}: {what} follows from the length of the run; pass {way_out}length=... (tokens).")
        return self.run

    def stretch(self, method: str) -> float:
        """Length of the run / pretraining length, at least 1. Raises: UserError if the length of the run is unknown."""
        return max(1.0, self.need_run(method, "factor", "factor=... or ") / self.pretraining)


@dataclass(frozen=True)
class Method(ContentHooks):
    """Base of every method, and the identity: a subclass overrides only the hooks in which it differs.

    The fields of the dataclass are the options, under the names that people type; None means "by the paper's rule",
    filled in by `resolve`. Naming a subclass registers it.
    """

    name: ClassVar[str] = ""
    refines: ClassVar[bool] = False  # `frequencies` changes those of another RoPE scaling, after it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            known = REGISTRY.setdefault(cls.name, cls)
            if known.__module__ != cls.__module__:
                raise UserError(f"method {cls.name!r} of {cls.__module__} is in {known.__module__} already; rename it.")
            REGISTRY[cls.name] = cls

    def for_model(self, config: PretrainedConfig) -> Self:
        """This method with the defaults that the config of the (text) model provides; called before `resolve`.

        Raises: UserError if the options do not fit the model.
        """
        return self

    def resolve(self, lengths: Lengths) -> Self:
        """This method with every default filled in. Raises: UserError for an option that makes no sense."""
        return self

    def for_prompt(self, length: int | None) -> Self:
        """This method for a prompt of `length` tokens (None: unknown), for `pieces` that depend on the prompt's
        length."""
        return self

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        """Inverse frequencies [M] (radians a position) -> new ones [M] and a factor on cos and sin."""
        return inv_freq, 1.0

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        """Query positions i [T] and key positions j [S] (consecutive, int64, CPU) -> the disjoint pieces of the keys
        that each query sees."""
        return [Piece(q_pos=i, k_pos=j, start=torch.zeros_like(i), stop=i + 1)]

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        """Query positions i [T] -> factor [T] on all scores of each query in a layer, or None for 1."""
        return None

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        """Values worth trying of the options that matter, by option, for `lcbench tune`. A value that makes no sense
        with the others may be among them: `resolve` refuses it."""
        return {}

    def advice(self, lengths: Lengths) -> str | None:
        """Advice of the method's authors on the resolved options, None if there is none; shown and recorded."""
        return None

    @property
    def prefix_stable(self) -> bool:
        """Whether the keys and values of a prefix do not depend on what follows it, so that its KV cache can be reused:
        once resolved, no hook reads `lengths.run`, and no key of a prompt is selected by later ones."""
        return not self.hooks & READING

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the files that options name: what they say decides results, too."""
        return ()

    @property
    def position_unit(self) -> int:
        """How many steps of the positions in `pieces` make one token: above 1 for fractions of a position."""
        return 1

    @property
    def replaces_scaling(self) -> bool:
        """Whether `frequencies` starts from plain RoPE, the model's own scaling left out, instead of from the scaled
        frequencies."""
        return False

    @property
    def layerwise(self) -> bool:
        """Whether `pieces` or `score_scale` differ from layer to layer; otherwise both are computed once per forward
        pass, for layer 0."""
        return False

    @property
    def headwise(self) -> bool:
        """Whether some pieces hold for some KV heads only."""
        return False

    @property
    def forgets(self) -> bool:
        """Whether the KV cache drops keys that no later query sees, or moves them to the memory of a piece."""
        return False

    @property
    def evicts(self) -> bool:
        """Whether the KV cache drops keys after the prompt that later queries would see."""
        return "evict" in self.hooks

    def keys_kept(self, layer: int, length: int) -> int:
        """Upper bound on the number of keys in the cache of a layer after `length` tokens."""
        return length

    def keys_left(self, layer: int, length: int) -> int:
        """Upper bound on the number of keys that a KV head of a layer keeps after a prompt of `length` tokens."""
        return self.keys_kept(layer, length)

    @property
    def hooks(self) -> frozenset[str]:
        """Names of the hooks that this method overrides; two methods compose if they share none."""
        return frozenset(name for name in HOOKS if getattr(type(self), name) is not getattr(Method, name))

    @property
    def label(self) -> str:
        """The name without options, `a+b` for a composition."""
        return self.name

    def options(self) -> dict[str, Any]:
        """Options by name, as recorded with every result."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """The method as it is typed, options at their defaults left out."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        texts = [f"{name}={write(value)}" for name, value in given.items()]
        return f"{self.name}:{','.join(texts)}" if texts else self.name

    def __add__(self, other: Method) -> Method:
        return compose([self, other])


@dataclass(frozen=True)
class Composition(Method):
    """Several methods that override disjoint hooks, applied together; a RoPE scaling may be refined by another."""

    parts: tuple[Method, ...]

    def for_model(self, config: PretrainedConfig) -> Composition:
        return Composition(tuple(part.for_model(config) for part in self.parts))

    def resolve(self, lengths: Lengths) -> Composition:
        return Composition(tuple(part.resolve(lengths) for part in self.parts))

    def for_prompt(self, length: int | None) -> Composition:
        return Composition(tuple(part.for_prompt(length) for part in self.parts))

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        factor = 1.0
        for part in sorted((part for part in self.parts if "frequencies" in part.hooks), key=lambda part: part.refines):
            inv_freq, more = part.frequencies(inv_freq, lengths)
            factor *= more
        return inv_freq, factor

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        return self._owner("pieces").pieces(i, j, layer)

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        return layer_scale(self._owner("score_scale"), i, lengths, layer)

    def select(self, content: Content, layer: int) -> Selection:
        return self._owner("select").select(content, layer)

    def digest_pages(self, k_KNPD: Tensor) -> Tensor:
        return self._owner("rate_pages").digest_pages(k_KNPD)

    def rate_pages(self, q_HD: Tensor, digest_KN: Tensor) -> Tensor:
        return self._owner("rate_pages").rate_pages(q_HD, digest_KN)

    def pages_read(self, layer: int) -> tuple[int, int] | None:
        return self._owner("rate_pages").pages_read(layer)

    def observe(self, content: Content, layer: int, seen: Any) -> Any:
        return self._owner("evict").observe(content, layer, seen)

    def evict(self, content: Content, layer: int, seen: Any) -> Tensor:
        return self._owner("evict").evict(content, layer, seen)

    def recall(self, content: Content, layer: int, seen: Any, answer: bool) -> tuple[Selection, Any]:
        return self._owner("recall").recall(content, layer, seen, answer)

    def advice(self, lengths: Lengths) -> str | None:
        return " ".join(filter(None, (part.advice(lengths) for part in self.parts))) or None

    @property
    def prefix_stable(self) -> bool:
        return all(part.prefix_stable for part in self.parts)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for part in self.parts for file in part.files)

    @property
    def position_unit(self) -> int:
        return self._owner("pieces").position_unit

    @property
    def replaces_scaling(self) -> bool:
        return any(part.replaces_scaling for part in self.parts)

    @property
    def layerwise(self) -> bool:
        return any(part.layerwise for part in self.parts)

    @property
    def headwise(self) -> bool:
        return any(part.headwise for part in self.parts)

    @property
    def forgets(self) -> bool:
        return any(part.forgets for part in self.parts)

    def keys_kept(self, layer: int, length: int) -> int:
        return min(part.keys_kept(layer, length) for part in self.parts)

    def keys_left(self, layer: int, length: int) -> int:
        return min(part.keys_left(layer, length) for part in self.parts)

    @property
    def hooks(self) -> frozenset[str]:
        return frozenset().union(*(part.hooks for part in self.parts))

    @property
    def label(self) -> str:
        return "+".join(part.name for part in self.parts)

    def options(self) -> dict[str, Any]:
        return {part.name: part.options() for part in self.parts}

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))

    def _owner(self, hook: str) -> Method:
        return next((part for part in self.parts if hook in part.hooks), self.parts[0])


def layer_scale(method: Method, i: Tensor, lengths: Lengths, layer: int) -> Tensor | None:
    """`score_scale` of a layer; a method that is the same in all layers need not have the argument `layer`."""
    return method.score_scale(i, lengths, layer) if method.layerwise else method.score_scale(i, lengths)


def compose(methods: list[Method]) -> Method:
    """Several methods as one. Raises: UserError if two of them override the same hook."""
    parts: list[Method] = []
    for method in methods:
        parts += method.parts if isinstance(method, Composition) else [method]
    parts = [part for part in parts if part.hooks] or parts[:1]  # vanilla adds nothing to another
    for index, part in enumerate(parts):
        for earlier in parts[:index]:
            for hook in sorted(earlier.hooks & part.hooks):
                if hook == "frequencies" and earlier.refines != part.refines:
                    continue
                raise UserError(f"{earlier.name} and {part.name} are both {HOOKS[hook]}; compose one of each at most.")
    _require_one_chooser(parts)
    return parts[0] if len(parts) == 1 else Composition(tuple(parts))


def require_answer(method: Method, what: str) -> None:
    """Raises: UserError for a method that changes only what the queries of an answer see, where `what` has none."""
    if method.hooks & ANSWER:
        raise UserError(
            f"{method.label} chooses the keys that an answer sees, and {what} has none: every token of a text counts "
            "as prompt; ask for answers, or leave it out."
        )


def _require_one_chooser(parts: list[Method]) -> None:
    """Raises: UserError if two methods decide which keys the same queries see."""
    forgetting = [part.name for part in parts if part.forgets]
    choosing = [part.name for part in parts if part.hooks & CONTENT]
    if forgetting and choosing:
        raise UserError(f"{forgetting[0]} drops keys by their place, and {choosing[0]} cannot choose among the others.")
    recalling = [part.name for part in parts if "recall" in part.hooks]
    if recalling and len(choosing) > 1:
        other = next(name for name in choosing if name not in recalling)
        raise UserError(
            f"{recalling[0]} chooses the keys of the prompt and of the answer, and {other} cannot choose among them; "
            "take one of the two."
        )
    decoding = [part.name for part in parts if part.hooks & ANSWER]
    if len(decoding) > 1:
        raise UserError(f"{' and '.join(decoding)} both choose the keys of the answer; compose one of them at most.")


def at_least(method: str, option: str, value: float, least: float) -> None:
    """Raises: UserError unless value >= least."""
    if not value >= least:
        raise UserError(f"{method}: {option} must be at least {least:g}, not {value:g}.")


def require_layer(method: str, layer: int, config: PretrainedConfig) -> None:
    """Raises: UserError unless the model has the layer."""
    if not 0 <= layer < config.num_hidden_layers:
        last = config.num_hidden_layers - 1
        raise UserError(f"{method}: there is no layer {layer}; the model's are 0 to {last}.")
