"""Draw docs/speed.svg: milliseconds per user of each engine, from committed results of ``podx bench``.

python docs/speed_chart.py            # writes docs/speed.svg
python docs/speed_chart.py --check    # exit status 1 where it is not up to date
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
CHART = DOCS / "speed.svg"
RESULTS = DOCS.parent / "bench" / "results" / "speed" / "numbers" / "results.json"
TASK = "sequential"
BATCHES = (1, 32)
ENGINES = {
    "encode-once": "PyTorch (transformers)",
    "optimum": "Optimum",
    "ort-beamsearch": "ONNX Runtime BeamSearch",
    "ctranslate2": "CTranslate2",
    "ctranslate2-int8": "CTranslate2 int8",
    "openvino-t5": "OpenVINO",
    "openvino": "podx's graph in OpenVINO",
    "podx": "podx",
    "podx-int8": "podx int8",
}

WIDTH, LEFT, PANEL, GAP, TOP, ROW, BAR = 860, 170, 290, 60, 62, 26, 16
OURS, OTHERS = "#3949ab", "#9aa0b5"


def times(batch: int) -> dict[str, float]:
    """Milliseconds per user by engine."""
    records = json.loads(RESULTS.read_text(encoding="utf-8"))["speed"]
    found = {r["engine"]: r["ms_per_user"] for r in records if r["task"] == TASK and r["batch_size"] == batch}
    return {engine: found[engine] for engine in ENGINES if engine in found}


def machine() -> str:
    """What the results were measured on."""
    environment = json.loads(RESULTS.read_text(encoding="utf-8"))["environment"]
    extensions = environment.get("instruction_set") or ""
    return f"{environment['cpu']}, {environment['threads']} threads{', ' + extensions if extensions else ''}"


def text(x: float, y: float, content: str, anchor: str = "start", weight: str = "normal") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(content)}</text>'


def panel(batch: int, left: float) -> list[str]:
    """The bars of one batch size."""
    measured = times(batch)
    widest = max(measured.values())
    users = "one user at a time" if batch == 1 else f"{batch} users at a time"
    parts = [text(left, TOP - 14, users, weight="bold")]
    for row, (engine, value) in enumerate(measured.items()):
        y = TOP + row * ROW
        length = PANEL * 0.82 * value / widest
        colour = OURS if engine.startswith("podx") else OTHERS
        parts.append(f'<rect x="{left:.1f}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
        parts.append(text(left + length + 5, y + 12.5, f"{value:.1f}" if value < 100 else f"{value:.0f}"))
    return parts


def draw() -> str:
    """The chart as SVG."""
    engines = times(BATCHES[0])
    height = TOP + len(engines) * ROW + 12
    parts = [text(10, 24, "Milliseconds per user (shorter is better): t5-small's shape, 20 beams", weight="bold")]
    parts += [text(WIDTH - 10, height - 2, machine(), "end")]
    for row, engine in enumerate(engines):
        parts.append(text(LEFT - 12, TOP + row * ROW + 12.5, ENGINES[engine], "end"))
    for place, batch in enumerate(BATCHES):
        parts += panel(batch, LEFT + place * (PANEL + GAP))
    style = 'font-family="system-ui, sans-serif" font-size="13" fill="#222"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 12}" {style}>\n'
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Write the chart, or check it."""
    if "--check" not in sys.argv[1:]:
        CHART.write_text(draw(), encoding="utf-8")
    elif CHART.read_text(encoding="utf-8") != draw():
        raise SystemExit(f"{CHART} is not what python docs/speed_chart.py draws: run it")


if __name__ == "__main__":
    main()
