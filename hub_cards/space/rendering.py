"""HTML of the parts of the page that depend on a prediction. Everything from a model or a file is escaped.

    Prediction ─► prediction(): label or score, bars, what each modality changed, the experts' weights
    [Part] ─► timeline(): one column for each part of a long clip

Next: style.css, the page's look.
"""

from html import escape
from typing import Any

from predictions import Part, Prediction


TITLES = {"text": "Text", "audio": "Audio", "video": "Video"}
HUES = {  # degrees, for well-known labels; others are spread over the circle
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
<p>EGMF guesses how a person seems to feel from text, voice and face, says how sure it is, and shows what each of them
changed.</p>
</header>
"""

RESPONSIBLE = """
<section class="egmf-not">
<h2>Responsible use</h2>
<ul>
<li><b>A guess about an expression</b>, not about what a person feels. Cultures, people and recordings differ.</li>
<li><b>Only with the consent</b> of the people who are seen or heard. Clips are deleted within the hour.</li>
<li><b>Do not base decisions about a person on it</b>: no hiring, grading, policing, insuring or diagnosing.</li>
<li><b>Restricted by law</b> in some places: in the European Union, inferring emotions is forbidden at work and in
schools, except for medical or safety reasons.</li>
<li>The checkpoint of <code>make demo</code> was trained only on drawn faces and synthetic voices: <b>on recordings of
people, its predictions mean nothing.</b></li>
</ul>
</section>
"""

EMPTY = """
<section class="egmf-empty"><p>Add a clip, a transcript or both, and press <b>Predict</b>.<br>
Or try one of the examples.</p></section>
"""


def notice(message: str) -> str:
    """What went wrong, shown instead of a prediction."""
    return f'<section class="egmf-notice" role="alert"><b>That did not work.</b><p>{escape(message)}</p></section>'


def prediction(result: Prediction, task: dict[str, Any]) -> str:
    """The prediction for one clip."""
    answer = result.answer
    if "label" in answer:
        head = _label_head(answer, task)
        chart = _bars(answer, task)
    else:
        head = _score_head(answer, task)
        chart = _scale(answer, task)
    parts = [
        f'<section class="egmf-card egmf-main" aria-live="polite">{head}{_modalities(result)}{chart}</section>',
        _changes(result, task),
        _experts(answer),
    ]
    return f'<div class="egmf-answer">{"".join(parts)}</div>'


# ---- the prediction ------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    return "&lt;1%" if 0 < share < 0.01 else f"{100 * share:.0f}%"


def signed(value: float) -> str:
    """A number with its sign, with a real minus sign; zero has none."""
    shown = f"{abs(value):.1f}"
    return shown if float(shown) == 0 else ("+" if value > 0 else "\u2212") + shown


def points(change: float) -> str:
    shown = f"{abs(change):.0f}"
    return shown if shown == "0" else ("+" if change > 0 else "\u2212") + shown


def _labels(task: dict[str, Any]) -> list[str]:
    return [label for label, _ in task["labels"]]


def color(label: str, task: dict[str, Any]) -> str:
    """The hue of a label, the same everywhere on the page."""
    names = _labels(task)
    spread = round(222 + 360 * names.index(label) / len(names)) % 360
    return f"--hue:{HUES.get(label, spread)}"


def _label_head(answer: dict[str, Any], task: dict[str, Any]) -> str:
    return (
        f'<div class="egmf-head-line" style="{color(answer["label"], task)}"><span class="egmf-dot"></span>'
        f'<strong class="egmf-label">{escape(answer["label"])}</strong>'
        f'<span class="egmf-score">{percent(answer["score"])}</span></div>'
    )


def _score_head(answer: dict[str, Any], task: dict[str, Any]) -> str:
    low, high = answer["interval"]
    return (
        f'<div class="egmf-head-line"><strong class="egmf-label">{signed(answer["value"])}</strong>'
        f'<span class="egmf-score">90% between {signed(low)} and {signed(high)}</span></div>'
        f'<p class="egmf-small">on a scale from {signed(task["low"])} to {signed(task["high"])}; mean '
        f"{signed(answer['mean'])}, most likely {signed(answer['most_likely'])}</p>"
    )


def _modalities(result: Prediction) -> str:
    """Which modalities were used, which were missing, and how much of the clip was used."""
    chips = [f'<span class="egmf-chip">{TITLES[name]}</span>' for name in result.answer["modalities"]]
    chips += [f'<span class="egmf-chip egmf-absent">no {name}</span>' for name in result.absent]
    remark = ""
    if result.seconds - result.used_seconds > 0.05:
        remark = (
            f'<p class="egmf-small">Based on the first {result.used_seconds:.1f} s of {result.seconds:.1f} s: '
            "this checkpoint uses no more of a clip.</p>"
        )
    if result.calibrated:
        remark += '<p class="egmf-small">Calibrated on clips that the model was not trained on.</p>'
    return f'<p class="egmf-chips">Predicted from {"".join(chips)}</p>{remark}'


def _bars(answer: dict[str, Any], task: dict[str, Any]) -> str:
    rows = []
    for label in _labels(task):
        share = answer["probabilities"][label]
        best = ' class="egmf-best"' if label == answer["label"] else ""
        rows.append(
            f'<li{best} data-label="{escape(label)}" data-share="{share:.4f}" style="{color(label, task)}">'
            f'<span class="egmf-name">{escape(label)}</span>'
            f'<span class="egmf-track"><span class="egmf-fill" style="width:{100 * share:.2f}%"></span></span>'
            f'<span class="egmf-number">{percent(share)}</span></li>'
        )
    return f'<ul class="egmf-bars">{"".join(rows)}</ul>'


def _scale(answer: dict[str, Any], task: dict[str, Any]) -> str:
    """The distribution over the scale, with the interval behind it and a line at the median."""
    shares = answer["probabilities"]
    max_share = max(shares.values())
    width = 100 / len(shares)

    def position(value: float) -> float:
        return 100 * (value - task["low"] + task["step"] / 2) / (task["high"] - task["low"] + task["step"])

    columns = ""
    for key, share in shares.items():
        value = float(key)
        height = 38 * share / max_share
        columns += (
            f'<rect x="{position(value) - width / 2:.2f}" width="{0.86 * width:.2f}" y="{40 - height:.2f}" '
            f'height="{height:.2f}" data-value="{value:g}" data-share="{share:.4f}"/>'
        )
    low, high = (position(edge) for edge in answer["interval"])
    median = position(answer["value"])
    middle = (task["low"] + task["high"]) / 2
    marks = "".join(f"<span>{signed(value)}</span>" for value in (task["low"], middle, task["high"]))
    return (
        f'<div class="egmf-scale"><svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        f'aria-label="Distribution over the scale">'
        f'<rect class="egmf-interval" x="{low - width / 2:.2f}" width="{high - low + width:.2f}" y="0" height="40"/>'
        f'{columns}<line x1="{median:.2f}" x2="{median:.2f}" y1="0" y2="40"/></svg>'
        f'<div class="egmf-marks">{marks}</div></div>'
    )


def _label_change(answer: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, str, str]:
    """Change of the label's probability in points, its bar's share of the width, the change and a remark as text."""
    label = answer["label"]
    change = 100 * (answer["score"] - other["probabilities"][label])
    remark = f"without: {escape(label)} {percent(other['probabilities'][label])}"
    if other["label"] != label:
        remark += f", <b>{escape(other['label'])}</b> is likelier"
    return change, min(abs(change) / 100, 1), f"{points(change)} points", remark


def _score_change(
    answer: dict[str, Any], other: dict[str, Any], task: dict[str, Any]
) -> tuple[float, float, str, str]:
    """Change of the value, and the rest as in `_label_change`."""
    change = answer["value"] - other["value"]
    low, high = other["interval"]
    remark = f"without: {signed(other['value'])}, between {signed(low)} and {signed(high)}"
    return change, min(abs(change) / (task["high"] - task["low"]), 1), signed(change), remark


def _changes(result: Prediction, task: dict[str, Any]) -> str:
    """How each modality changed the prediction."""
    rows = []
    for name, other in result.without.items():
        if "label" in result.answer:
            change, reach, amount, remark = _label_change(result.answer, other)
        else:
            change, reach, amount, remark = _score_change(result.answer, other, task)
        side = "egmf-up" if change >= 0 else "egmf-down"
        rows.append(
            f'<li data-modality="{name}" data-change="{change:.2f}"><span class="egmf-name">{TITLES[name]}</span>'
            f'<span class="egmf-swing"><span class="{side}" style="width:{50 * reach:.2f}%"></span></span>'
            f'<span class="egmf-number">{amount}</span><span class="egmf-remark">{remark}</span></li>'
        )
    if not rows:
        only = result.answer["modalities"][0]
        rows = [f'<li class="egmf-small">Predicted from {only} only: there is nothing to leave out.</li>']
    subject = escape(result.answer["label"]) if "label" in result.answer else "the score"
    return (
        f'<section class="egmf-card"><h3>What each modality changed for {subject}</h3>'
        f'<ul class="egmf-changes">{"".join(rows)}</ul></section>'
    )


def _experts(answer: dict[str, Any]) -> str:
    names = list(answer["experts"])
    pieces = []
    keys = []
    for position, name in enumerate(names):
        share = answer["experts"][name]
        largest = "egmf-loud" if name == answer["expert"] else ""
        tone = f"--tone:{position / max(1, len(names) - 1):.2f}"
        pieces.append(
            f'<span class="egmf-piece" style="width:{100 * share:.2f}%;{tone}" title="{escape(name)}"></span>'
        )
        keys.append(
            f'<li class="{largest}" style="{tone}"><span class="egmf-dot"></span>'
            f'<b>{escape(name)}</b><span class="egmf-number">{percent(share)}</span></li>'
        )
    return (
        '<section class="egmf-card"><h3>Weights of the experts</h3>'
        f'<div class="egmf-stack">{"".join(pieces)}</div><ul class="egmf-keys">{"".join(keys)}</ul>'
        f'<p class="egmf-small">{escape(answer["expert"]).capitalize()} has the largest weight. '
        f"{percent(answer['residual'])} of the fused vector bypassed the experts.</p></section>"
    )


# ---- the timeline --------------------------------------------------------------------------------------------


def timeline(parts: list[Part], task: dict[str, Any], modalities: list[str]) -> str:
    """The parts of a long clip side by side; empty for no parts."""
    if not parts:
        return ""
    cells = "".join(_cell(part, task) for part in parts)
    used = " and ".join(name for name in ("audio", "video") if name in modalities)
    return (
        '<section class="egmf-card egmf-time"><h3>Over the clip</h3>'
        f'<ol class="egmf-parts">{cells}</ol>'
        f'<p class="egmf-small">Equal parts, predicted from {used}; the transcript is left out here, because its '
        "timing is unknown.</p></section>"
    )


def _cell(part: Part, task: dict[str, Any]) -> str:
    when = f"{part.start:.0f}\u2013{part.end:.0f} s"
    if "label" in part.answer:
        return _label_cell(part, task, when)
    return _score_cell(part, task, when)


def _label_cell(part: Part, task: dict[str, Any], when: str) -> str:
    label = part.answer["label"]
    score = part.answer["score"]
    return (
        f'<li style="{color(label, task)}" data-label="{escape(label)}" title="{escape(label)} {percent(score)}">'
        f'<span class="egmf-when">{when}</span><span class="egmf-column"><span style="height:{100 * score:.1f}%">'
        f"</span></span><b>{escape(label)}</b><small>{percent(score)}</small></li>"
    )


def _score_cell(part: Part, task: dict[str, Any], when: str) -> str:
    value = part.answer["value"]
    low, high = part.answer["interval"]
    span = task["high"] - task["low"]
    bottom = 100 * (low - task["low"]) / span
    height = max(100 * (high - low) / span, 2)
    line = 100 * (value - task["low"]) / span
    return (
        f'<li data-value="{value:g}"><span class="egmf-when">{when}</span>'
        f'<span class="egmf-column"><span class="egmf-range" style="bottom:{bottom:.1f}%;height:{height:.1f}%"></span>'
        f'<span class="egmf-line" style="bottom:{line:.1f}%"></span></span>'
        f"<b>{signed(value)}</b><small>{signed(low)} to {signed(high)}</small></li>"
    )
