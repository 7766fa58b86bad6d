"""Experiments: what stands in experiments/, checked, typed and resolved. The only file that knows OmegaConf.

Precedence, and no more than this: constructor signature < row < cell < command line.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nfbench.errors import UsageError
from nfbench.layers import Layer, command_line, fill, hint, read_yaml
from nfbench.record import check_address, find_root
from nfbench.signatures import dataset_names, flow_names, flow_schema
