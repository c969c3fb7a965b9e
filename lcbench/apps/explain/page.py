"""An explanation as one page that opens from disk: heads and layers, the context as strips, each layer's own answer."""

from __future__ import annotations

from lcbench.apps.explain.question import GROUPS, SINKS
from lcbench.apps.explain.result import COPIED, FLOOR, NEEDLE, Explanation, Head, Look, shade, told
from lcbench.apps.explain.show import named
from lcbench.results.report.heatmap import color_scale
from lcbench.results.report.html.frame import asset, document, text
from lcbench.results.report.html.heat import heat_style

LEVELS = 20  # shades of a strip


def page_of(explanation: Explanation) -> str:
    """The whole page: text of models and prompts is escaped, and nothing is loaded from elsewhere."""
    notes = "".join(f"<li>{text(note)}</li>" for note in explanation.notes)
    others = "".join(
        f"<details><summary>{text(group)}</summary>{_maps(explanation, number)}</details>\n"
        for number, group in enumerate(GROUPS)
        if number != NEEDLE
    )
    body = f"""<header><p>lcbench explain</p><h1>{text(explanation.title)}</h1></header>
<main>
{_facts(explanation)}
<h2>What became of it</h2>
{_summary(explanation)}
<h2>Attention on the needle, by layer and head</h2>
<p class="about">Per cent of the attention of the prompt's last token. Framed: a retrieval head, which
gives {COPIED:.0%} or more to tokens of the needle with which a right answer goes on. {text(_groups(explanation))}</p>
{_maps(explanation, NEEDLE)}
<h3>Attention on everything else</h3>
{others}
<h2>Attention over the context</h2>
<p class="about">From the first token to the last, on a logarithmic scale: blank is {FLOOR:g} of the attention or
less. The frame is the needle.</p>
{"".join(_strips(explanation, look) for look in explanation.looks)}
<h2>What each layer would say</h2>
{_lens(explanation)}
{f'<ul class="about">{notes}</ul>' if notes else ""}
</main>"""
    style = asset("report.css") + heat_style() + asset("explain.css") + _strip_style()
    return document(f"lcbench explain: {explanation.title}", body, style)


def _facts(explanation: Explanation) -> str:
    begun = f", after {explanation.begun!r}" if explanation.begun else ""
    facts = [
        *explanation.facts,
        ("needle's text", repr(explanation.needle_text)),
        ("wanted", f"{explanation.reference!r}; its first token {explanation.right!r}{begun}"),
    ]
    rows = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(fact)}</td></tr>\n' for name, fact in facts)
    return f'<table class="facts"><tbody>\n{rows}</tbody></table>'


def _summary(explanation: Explanation) -> str:
    columns = (
        "method",
        "answer",
        "right token",
        "head that looks at the needle most",
        "retrieval heads",
        "mean of all heads",
        "the needle stands at",
    )
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    rows = "".join(f"<tr>{_summary_row(explanation, look)}</tr>\n" for look in explanation.looks)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Summary"><table class="wide">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>"
    )


def _summary_row(explanation: Explanation, look: Look) -> str:
    (best,) = look.best(1)
    on_answer = look.on_answer[look.layers.index(best.layer), best.head]
    last = look.lens[-1] if look.lens else None
    means = look.shares.mean(axis=(0, 1))
    resolved = look.resolved if look.resolved != look.method else ""
    far = '<small class="bad">beyond every distance of training</small>' if explanation.beyond(look) else ""
    cells = [
        f"{text(look.answer.strip())}<small>{text(explanation.metric.replace('_', ' '))} {_score(look.score)}</small>",
        f"rank {last.rank:,}<small>p {last.probability:.2g}</small>" if last else "unknown",
        f"{look.needle(best):.1%} of {text(best)}<small>{on_answer:.1%} on the answer's token</small>",
        text(named(look.retrieving)),
        "".join(f"<small>{text(group)} {share:.1%}</small>" for group, share in zip(GROUPS, means, strict=True)),
        "".join(f"{text(line)}<small></small>" for line in told(look.standing)) + far,
    ]
    same = f"<small>= {text(look.equals)}</small>" if look.equals else ""
    first = f'<th scope="row">{text(look.method)}<small>{text(resolved).replace(",", ",<wbr>")}</small>{same}</th>'
    return first + "".join(f"<td>{cell}</td>" for cell in cells)


def _maps(explanation: Explanation, group: int) -> str:
    """A table a method side by side: a row a layer, a column a head."""
    return f'<div class="maps">{"".join(_map(explanation, look, group) for look in explanation.looks)}</div>'


def _map(explanation: Explanation, look: Look, group: int) -> str:
    retrieves = set(look.retrieving) if group == NEEDLE else set()

    def cell(head: Head, share: float) -> str:
        classes = f"s{round(100 * min(1.0, share))}{' retrieves' if head in retrieves else ''}"
        return f'<td class="{classes}" title="{text(head)}: {share:.2%}">{100 * share:.0f}</td>'

    shares = look.shares[:, :, group]
    heads = "".join(f'<th scope="col">{head}</th>' for head in range(shares.shape[1]))
    body = "".join(
        f'<tr><th scope="row">{layer}</th>'
        + "".join(cell(Head(layer, head), float(share)) for head, share in enumerate(row))
        + "</tr>\n"
        for layer, row in zip(look.layers, shares, strict=True)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(look.method)} by layer and head">'
        f'<table class="heat"><caption>{text(look.method)}</caption>'
        f'<thead><tr><th scope="col">layer</th>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'
    )


def _strips(explanation: Explanation, look: Look) -> str:
    strips = explanation.strips(look)
    bins = len(strips[0][1])
    begin, end = (bins * place / explanation.tokens for place in (explanation.needle.start, explanation.needle.stop))
    frame = f'<rect class="place" x="{begin:.2f}" y="0" width="{max(0.5, end - begin):.2f}" height="1"/>'
    rows = ""
    for title, shares in strips:
        levels = [round(LEVELS * shade(float(share))) for share in shares]
        bars = "".join(
            f'<rect class="t{level}" x="{place}" y="0" width="1" height="1"/>'
            for place, level in enumerate(levels)
            if level
        )
        rows += (
            f'<tr><th scope="row">{text(title)}</th><td><svg class="strip" viewBox="0 0 {bins} 1" '
            f'preserveAspectRatio="none" role="img" aria-label="{text(title)} under {text(look.method)}">{bars}{frame}'
            "</svg></td></tr>\n"
        )
    return f'<h3>{text(look.method)}</h3>\n<table class="strips"><tbody>\n{rows}</tbody></table>\n'


def _lens(explanation: Explanation) -> str:
    """The rank of the right token and the first token of each layer's output, a column a method."""
    looks = [look for look in explanation.looks if look.lens]
    if not looks:
        return f'<p class="about">{text(explanation.looks[0].no_lens)}</p>'
    head = "".join(f'<th scope="col">{text(look.method)}</th>' for look in looks)
    rows = ""
    for layer in range(len(looks[0].lens)):
        cells = "".join(
            f"<td{' class=right' if (one := look.lens[layer]).rank == 1 else ''}>{one.rank:,} "
            f"<small>{text(repr(one.first))}</small></td>"
            for look in looks
        )
        rows += f'<tr><th scope="row">{layer}</th>{cells}</tr>\n'
    return (
        '<p class="about">The rank of the right token, and the token that is first, if the output of a layer went '
        "straight to the model's final norm and head.</p>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Ranks by layer"><table class="lens">'
        f'<thead><tr><th scope="col">after layer</th>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
    )


def _groups(explanation: Explanation) -> str:
    return (
        f"The sinks are the first {SINKS} tokens, the last window is the last {explanation.last_window}; where the "
        "needle stands in one of them, it counts as the needle."
    )


def _strip_style() -> str:
    scale, rules = color_scale(), []
    for level in range(1, LEVELS + 1):
        color = "".join(f"{round(channel * 255):02x}" for channel in scale(level / LEVELS)[:3])
        rules.append(f".t{level}{{fill:#{color}}}")
    return "\n".join(rules)


def _score(score: float | None) -> str:
    return "none" if score is None else f"{score:g}"
