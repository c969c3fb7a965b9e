"""LongBench's scores of Chinese answers: words as `jieba` segments them, then F1 or ROUGE-L as for English.

Reference: THUDM/LongBench@072a5a73 LongBench/metrics.py, whose list of signs has a closing angle bracket and no opening
one. `jieba` brings a dictionary of 40 MB: `pip install 'lcbench[zh]'`.
"""

from __future__ import annotations

import logging
import string

from lcbench.core.errors import UserError
from lcbench.metrics.base import Scored
from lcbench.metrics.overlap import shared_f1

# Signs that are taken out of words, as the official list has them.
SIGNS = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃"  # noqa: RUF001
    "》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."  # noqa: RUF001
)
WITHOUT = str.maketrans("", "", string.punctuation + SIGNS)


def segment(text: str) -> list[str]:
    """The words of a text. Raises: UserError without `jieba`."""
    try:
        import jieba
    except ImportError as error:
        raise UserError("scores of Chinese answers need jieba; pip install 'lcbench[zh]'.") from error
    jieba.setLogLevel(logging.WARNING)  # else it tells on stderr how long its dictionary took
    return list(jieba.cut(text, cut_all=False))


def chinese_f1(prediction: str, reference: str) -> Scored:
    """F1 of the words as multisets, in lower case and without signs and white space."""
    predicted, expected = (_words(text) for text in (prediction, reference))
    return Scored({"score": shared_f1(predicted, expected)})


def _words(text: str) -> list[str]:
    return [word for part in segment(text) if (word := "".join(part.lower().translate(WITHOUT).split()))]
