"""The page's parts that are written for each answer, as HTML: everything that comes from a model or a file is escaped.

    Prediction ─► answer(): label or score, bars, what each modality changed, which expert spoke
    [Part] ─► timeline(): one column for each part of a long clip

Next: style.css, which says what it looks like.
"""

from html import escape
from typing import Any

from predictions import NAMES, Part, Prediction


TITLES = {"text": "Words", "audio": "Sound", "video": "Picture"}
HUES = {  # degrees, for labels that are well known; others are spread over the circle
    **dict.fromkeys(("neutral", "平静"), 190),
    **dict.fromkeys(("surprise", "惊奇"), 320),
    **dict.fromkeys(("fear", "恐惧"), 275),
    **dict.fromkeys(("sadness", "悲伤"), 222),
    **dict.fromkeys(("joy", "高兴"), 45),
    **dict.fromkeys(("disgust", "厌恶"), 130),
    **dict.fromkeys(("anger", "愤怒"), 5),
}

INTRODUCTION = """
<header class="egmf-head">
<h1>How does it sound, look and read?</h1>
<p>EGMF guesses how a person seems to feel from words, voice and face, says how sure it is, and shows what each of them
changed.</p>
</header>
"""

RESPONSIBLE = """
<section class="egmf-not">
<h2>What this is not for</h2>
<ul>
<li><b>A guess about an expression</b>, not about what a person feels. Cultures, people and recordings differ.</li>
<li><b>Only with consent</b> of those who are seen or heard. Clips are deleted within the hour.</li>
<li><b>No decision about a person</b> may rest on it: no hiring, grading, policing, insuring or diagnosing.</li>
<li><b>Restricted by law</b> in some places: in the European Union inferring emotions is forbidden at work and in
schools, save for medical or safety reasons.</li>
<li>The checkpoint of <code>make demo</code> has only ever met drawn faces and synthetic voices: <b>on recordings of
people its answers mean nothing.</b></li>
</ul>
</section>
"""

EMPTY = """
<section class="egmf-empty"><p>Give a clip, or only words, and press <b>Predictor</b>.<br>
Or take one of the examples.</p></section>
"""


def notice(message: str) -> str:
    """What went wrong, in place of an answer."""
    return f'<section class="egmf-notice" role="alert"><b>That did not work.</b><p>{escape(message)}</p></section>'


def answer(judged: Prediction, task: dict[str, Any]) -> str:
    """The answer about one clip."""
    found = judged.answer
    is_label = "label" in found
    head = _label_head(found, task) if is_label else _score_head(found, task)
    bars = _bars(found, task) if is_label else _scale(found, task)
    parts = [f'<section class="egmf-card egmf-main" aria-live="polite">{head}{_taken(judged)}{bars}</section>']
    parts.append(_changes(judged, task))
    parts.append(_experts(found))
    return f'<div class="egmf-answer">{"".join(parts)}</div>'


# ---- the answer ----------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    return "&lt;1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def signed(score: float) -> str:
    """A score with its sign, a true minus, and no sign before nothing."""
    shown = f"{abs(score):.1f}"
    return shown if float(shown) == 0 else ("+" if score > 0 else "\u2212") + shown


def points(change: float) -> str:
    shown = f"{abs(change):.0f}"
    return shown if shown == "0" else ("+" if change > 0 else "\u2212") + shown


def _labels(task: dict[str, Any]) -> list[str]:
    return [label for label, _ in task["labels"]]


def color(label: str, task: dict[str, Any]) -> str:
    """One hue for each label of a task, the same wherever it is drawn."""
    names = _labels(task)
    return f"--hue:{HUES.get(label, round(222 + 360 * names.index(label) / len(names)) % 360)}"


def _label_head(found: dict[str, Any], task: dict[str, Any]) -> str:
    return (
        f'<div class="egmf-head-line" style="{color(found["label"], task)}"><span class="egmf-dot"></span>'
        f'<strong class="egmf-label">{escape(found["label"])}</strong>'
        f'<span class="egmf-score">{percent(found["score"])}</span></div>'
    )


def _score_head(found: dict[str, Any], task: dict[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f'<div class="egmf-head-line"><strong class="egmf-label">{signed(found["score"])}</strong>'
        f'<span class="egmf-score">90 % between {signed(low)} and {signed(high)}</span></div>'
        f'<p class="egmf-small">on a scale from {signed(task["low"])} to {signed(task["high"])}; mean '
        f"{signed(found['mean'])}, most likely {signed(found['most_likely'])}</p>"
    )


def _taken(judged: Prediction) -> str:
    """What took part, what was not there, and how much of the clip was looked at."""
    chips = [f'<span class="egmf-chip">{TITLES[name]}</span>' for name in judged.answer["modalities"]]
    chips += [f'<span class="egmf-chip egmf-absent">no {NAMES[name]}</span>' for name in judged.absent]
    said = ""
    if judged.seconds - judged.looked_at > 0.05:
        said = (
            f'<p class="egmf-small">This is about the first {judged.looked_at:.1f} s of {judged.seconds:.1f} s: '
            "this checkpoint looks at no more at once.</p>"
        )
    return f'<p class="egmf-chips">Prediction by {"".join(chips)}</p>{said}'


def _bars(found: dict[str, Any], task: dict[str, Any]) -> str:
    rows = []
    for label in _labels(task):
        share = found["probabilities"][label]
        best = ' class="egmf-best"' if label == found["label"] else ""
        rows.append(
            f'<li{best} data-label="{escape(label)}" data-share="{share:.4f}" style="{color(label, task)}">'
            f'<span class="egmf-name">{escape(label)}</span>'
            f'<span class="egmf-track"><span class="egmf-fill" style="width:{100 * share:.2f}%"></span></span>'
            f'<span class="egmf-number">{percent(share)}</span></li>'
        )
    return f'<ul class="egmf-bars">{"".join(rows)}</ul>'


def _scale(found: dict[str, Any], task: dict[str, Any]) -> str:
    """The distribution over the scale, the interval behind it, a line at the median."""
    shares = found["probabilities"]
    values, most = [float(key) for key in shares], max(shares.values())
    width = 100 / len(values)

    def place(value: float) -> float:
        return 100 * (value - task["low"] + task["step"] / 2) / (task["high"] - task["low"] + task["step"])

    low, high = (place(edge) for edge in found["interval"])
    columns = "".join(
        f'<rect x="{place(value) - width / 2:.2f}" width="{0.86 * width:.2f}" y="{40 - 38 * share / most:.2f}" '
        f'height="{38 * share / most:.2f}" data-value="{value:g}" data-share="{share:.4f}"/>'
        for value, share in zip(values, shares.values(), strict=True)
    )
    middle = (task["low"] + task["high"]) / 2
    marks = "".join(f"<span>{signed(value)}</span>" for value in (task["low"], middle, task["high"]))
    return (
        f'<div class="egmf-scale"><svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        f'aria-label="Distribution over the scale">'
        f'<rect class="egmf-interval" x="{low - width / 2:.2f}" width="{high - low + width:.2f}" y="0" height="40"/>'
        f'{columns}<line x1="{place(found["score"]):.2f}" x2="{place(found["score"]):.2f}" y1="0" y2="40"/></svg>'
        f'<div class="egmf-marks">{marks}</div></div>'
    )


def _changes(judged: Prediction, task: dict[str, Any]) -> str:
    """With and without each modality."""
    rows = []
    for name, other in judged.without.items():
        if "label" in judged.answer:
            label = judged.answer["label"]
            change = 100 * (judged.answer["score"] - other["probabilities"][label])
            reach, unit = min(abs(change) / 100, 1), f"{points(change)} points"
            said = f"without: {escape(label)} {percent(other['probabilities'][label])}"
            said += f", rather <b>{escape(other['label'])}</b>" if other["label"] != label else ""
        else:
            change = judged.answer["score"] - other["score"]
            reach, unit = min(abs(change) / (task["high"] - task["low"]), 1), signed(change)
            low, high = other["interval"]
            said = f"without: {signed(other['score'])}, between {signed(low)} and {signed(high)}"
        side = "egmf-up" if change >= 0 else "egmf-down"
        rows.append(
            f'<li data-modality="{name}" data-change="{change:.2f}"><span class="egmf-name">{TITLES[name]}</span>'
            f'<span class="egmf-swing"><span class="{side}" style="width:{50 * reach:.2f}%"></span></span>'
            f'<span class="egmf-number">{unit}</span><span class="egmf-said">{said}</span></li>'
        )
    if not rows:
        only = escape(NAMES[judged.answer["modalities"][0]])
        rows = [f'<li class="egmf-small">Prediction by {only} alone: there is nothing to leave out.</li>']
    what = escape(judged.answer["label"]) if "label" in judged.answer else "the score"
    return (
        f'<section class="egmf-card"><h3>What each changed for {what}</h3>'
        f'<ul class="egmf-changes">{"".join(rows)}</ul></section>'
    )


def _experts(found: dict[str, Any]) -> str:
    names = list(found["experts"])
    pieces, keys = [], []
    for place, name in enumerate(names):
        share, loud = found["experts"][name], " egmf-loud" if name == found["expert"] else ""
        tone = f"--tone:{place / max(1, len(names) - 1):.2f}"
        pieces.append(
            f'<span class="egmf-piece" style="width:{100 * share:.2f}%;{tone}" title="{escape(name)}"></span>'
        )
        keys.append(
            f'<li class="{loud.strip()}" style="{tone}"><span class="egmf-dot"></span>'
            f'<b>{escape(name)}</b><span class="egmf-number">{percent(share)}</span></li>'
        )
    return (
        '<section class="egmf-card"><h3>Which expert spoke</h3>'
        f'<div class="egmf-stack">{"".join(pieces)}</div><ul class="egmf-keys">{"".join(keys)}</ul>'
        f'<p class="egmf-small">{escape(found["expert"]).capitalize()} spoke loudest. {percent(found["residual"])} of '
        "what was fused went past the experts.</p></section>"
    )


# ---- the timeline --------------------------------------------------------------------------------------------


def timeline(parts: list[Part], task: dict[str, Any], modalities: list[str]) -> str:
    """The parts of a long clip side by side; empty for no parts."""
    if not parts:
        return ""
    cells = "".join(_cell(part, task) for part in parts)
    by = " and ".join(NAMES[name] for name in ("audio", "video") if name in modalities)
    return (
        '<section class="egmf-card egmf-time"><h3>Through the clip</h3>'
        f'<ol class="egmf-parts">{cells}</ol>'
        f'<p class="egmf-small">Equal parts, judged by {by}; words are left out here, because nobody knows when they '
        "were said.</p></section>"
    )


def _cell(part: Part, task: dict[str, Any]) -> str:
    when = f"{part.start:.0f}\u2013{part.end:.0f} s"
    if "label" in part.answer:
        label, score = part.answer["label"], part.answer["score"]
        return (
            f'<li style="{color(label, task)}" data-label="{escape(label)}" title="{escape(label)} {percent(score)}">'
            f'<span class="egmf-when">{when}</span><span class="egmf-column"><span style="height:{100 * score:.1f}%">'
            f"</span></span><b>{escape(label)}</b><small>{percent(score)}</small></li>"
        )
    span, (low, high) = task["high"] - task["low"], part.answer["interval"]
    bottom, height = 100 * (low - task["low"]) / span, 100 * (high - low) / span
    line = 100 * (part.answer["score"] - task["low"]) / span
    reach = f"bottom:{bottom:.1f}%;height:{max(height, 2):.1f}%"
    return (
        f'<li data-score="{part.answer["score"]:g}"><span class="egmf-when">{when}</span>'
        f'<span class="egmf-column"><span class="egmf-range" style="{reach}"></span>'
        f'<span class="egmf-line" style="bottom:{line:.1f}%"></span></span>'
        f"<b>{signed(part.answer['score'])}</b><small>{signed(low)} to {signed(high)}</small></li>"
    )
