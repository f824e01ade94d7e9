"""Results and the Markdown table of a case."""

import statistics


class Result:
    """What one run of one tool took."""

    def __init__(self, seconds, moved_bytes, cpu, peaks, note=""):
        self.seconds, self.moved_bytes, self.cpu, self.peaks = seconds, moved_bytes, cpu, peaks
        self.note = note

    def rate(self):
        return self.moved_bytes / 1e6 / self.seconds


def spread(values, digits=2):
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def pair(values, digits):
    known = [v for v in values if v is not None]
    return " + ".join(f"{v:.{digits}f}" for v in known) if len(known) == 2 else "?"


def base_of(results):
    """What others are compared with: the run that, like them, does not sync; else the durable."""
    return next((name for name in ["shoal-no-sync", "shoal"] if results.get(name)), None)


def ratios(name, base, results):
    """Time of a tool over shoal's, pair by pair; by rate, since a run may have been cut short."""
    pairs = zip(results[name], results[base])
    return [ours.rate() / other.rate() for other, ours in pairs if other and ours]


def transfers(title, tools, results):
    """The table of a case that moves data."""
    base = base_of(results)
    lines = [
        f"### {title}",
        "",
        f"| Tool | seconds | MB/s | CPU s/GB, sender + receiver | peak MB, sender + receiver "
        f"| time ÷ {base or 'shoal'}'s |",
        "|---|---|---|---|---|---|",
    ]
    for tool in tools:
        done = [result for result in results[tool.name] if result]
        label = tool.label + ("" if tool.encrypted else " ○")
        if not done:
            lines.append(f"| {label} | failed | | | | |")
            continue
        per_gb = [
            statistics.median(r.cpu[end] / (r.moved_bytes / 1e9) for r in done)
            if all(r.cpu[end] is not None for r in done) else None
            for end in range(2)
        ]
        peaks = [max(r.peaks[end] for r in done) for end in range(2)]
        relative = ratios(tool.name, base, results) if base else []
        notes = sorted({r.note for r in done if r.note})
        failures = len(results[tool.name]) - len(done)
        notes += [f"{failures} of {len(results[tool.name])} runs failed"] if failures else []
        lines.append(
            f"| {label}{': ' + ', '.join(notes) if notes else ''} "
            f"| {spread([r.seconds for r in done])} | {spread([r.rate() for r in done], 1)} "
            f"| {pair(per_gb, 2)} | {pair(peaks, 0)} | {spread(relative) if relative else ''} |"
        )
    lines += ["", "○ not encrypted. Medians (range)."]
    return "\n".join(lines)


def values(title, columns, tools, results, digits):
    """The table of a case with figures of its own."""
    lines = [f"### {title}", "", f"| Tool | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for tool in tools:
        done = [result for result in results[tool.name] if result]
        cells = [spread([r[at] for r in done if r[at] is not None], digits)
                 if any(r[at] is not None for r in done) else ""
                 for at in range(len(columns))] if done else ["failed"]
        failures = len(results[tool.name]) - len(done)
        note = f": {failures} of {len(results[tool.name])} runs failed" if done and failures else ""
        lines.append(f"| {tool.label}{note} | {' | '.join(cells)} |")
    return "\n".join(lines)


def versions(tools):
    return "\n".join(["Versions:", *(f"- {tool.name}: {tool.version()}" for tool in tools)])
