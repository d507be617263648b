# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The arguments of benchmarks, and their results."""

import argparse
import json
import os
import platform
from typing import Any, Dict, Sequence, Tuple

import mmengine
import mmpretrain
import torch

from common.arguments import positive_int
from common.report import markdown_table


def add_benchmark_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments of all benchmarks."""
    parser.add_argument('--quick', action='store_true', help='smallest sizes; about a minute on a CPU')
    parser.add_argument('--rounds', type=positive_int, default=7, help='rounds, whose median is reported (default: 7)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=positive_int, help="CPU threads (default: torch's)")
    parser.add_argument('-o', '--out', default=out, help=f'JSON file for the results (default: {out})')


def parse_benchmark_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the arguments, and set the device and the number of threads."""
    args = parser.parse_args()
    if args.device.startswith('cuda'):
        if not torch.cuda.is_available():
            parser.error(f'--device {args.device}: no GPU is visible. Available: cpu.')
        torch.cuda.set_device(torch.device(args.device).index or 0)  # Timers synchronize the current device.
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def describe_machine(device: str) -> Dict[str, Any]:
    """Return what a measurement depends on: device, threads and versions."""
    name = platform.processor() or platform.machine()
    if device.startswith('cuda'):
        name = torch.cuda.get_device_name(device)
    elif os.path.isfile('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            name = next((line.split(':')[1].strip() for line in file if line.startswith('model name')), name)
    return dict(
        device=name,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        python=platform.python_version(),
    )


def report(out: str, device: str, columns: Dict[str, Tuple[str, str]], rows: Sequence[Dict[str, Any]]) -> None:
    """Print rows as a Markdown table with these headings and formats by key, and write them as JSON.

    None or a missing key is an empty cell. The machine is described in both.
    """
    machine = describe_machine(device)
    print(', '.join(f'{key} {value}' for key, value in machine.items()), end='\n\n')
    cells = [
        ['' if row.get(key) is None else format(row[key], form) for key, (_, form) in columns.items()] for row in rows
    ]
    print(markdown_table([heading for heading, _ in columns.values()], cells))
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    with open(out, 'w', encoding='utf-8') as file:
        json.dump(dict(machine=machine, rows=list(rows)), file, indent=2)
    print(f'\nWritten: {out}')
