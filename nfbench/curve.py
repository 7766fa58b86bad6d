"""Training curves: what the validations of a run gave, one JSON object a line.

Imports no torch.
"""

import json
from pathlib import Path


def read_curve(path: Path) -> list[dict[str, float]]:
    """The lines of a training curve, oldest first; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
