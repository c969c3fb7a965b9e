"""LongBench's scores of Chinese answers: words as segmented by `jieba`, then F1 or ROUGE-L as for English.

Reference: THUDM/LongBench@072a5a73 LongBench/metrics.py, whose punctuation has a closing angle bracket but no opening
one. `jieba` is an extra, since its dictionary is 40 MB: `pip install 'lcbench[zh]'`.
"""

from __future__ import annotations

import logging
import string

from lcbench.core.errors import UserError
from lcbench.metrics.base import Scored
from lcbench.metrics.overlap import shared_f1

# Punctuation that is removed from words: the official list.
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
    jieba.setLogLevel(logging.WARNING)  # else it logs the loading of its dictionary on stderr
    return list(jieba.cut(text, cut_all=False))


def chinese_f1(prediction: str, reference: str) -> Scored:
    """F1 of the words as multisets, in lower case and without punctuation and white space."""
    predicted, expected = (_words(text) for text in (prediction, reference))
    return Scored({"score": shared_f1(predicted, expected)})


def _words(text: str) -> list[str]:
    return [word for part in segment(text) if (word := "".join(part.lower().translate(WITHOUT).split()))]
