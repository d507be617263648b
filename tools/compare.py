# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A fair race between methods: ``python tools/compare.py PAIR.py --methods rsd kd dkd --seeds 3``.

Trains the student alone and with every method, each seed with the same initial
student and the same order of images, one tools/train.py in a work dir of its own.
The same command again continues where it was interrupted. Writes race.md, race.json
and race.png to the work dir.
"""

import argparse
import copy
import glob
import json
import os
import os.path as osp
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any, Dict, List, NamedTuple, Optional

from mmengine.config import Config, DictAction

TOOLS = osp.dirname(osp.abspath(__file__))
METHODS = osp.join(TOOLS, '..', 'configs', '_base_', 'methods')
ALONE = 'alone'
#: What has to be the same for every model of a race.
SHARED = ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr')


class Entry(NamedTuple):
    """A model of the race."""

    name: str
    cfg: Config


class Run(NamedTuple):
    """One training: a model and a seed."""

    name: str
    seed: int
    folder: str
    config: str
    text: str
    total: int

    def __str__(self) -> str:
        return f'{self.name}, seed {self.seed}'


def parse_args() -> argparse.Namespace:
    known = sorted(osp.splitext(name)[0] for name in os.listdir(METHODS) if name.endswith('.py'))
    parser = argparse.ArgumentParser(description='A fair race between distillation methods, over several seeds')
    parser.add_argument('configs', nargs='+', help='configs of the same student; or, with --methods, that of one pair')
    parser.add_argument(
        '--methods',
        nargs='+',
        metavar='METHOD',
        help=f"put these methods in the place of the pair's: {', '.join(known)}",
    )
    parser.add_argument('--seeds', type=int, default=3, help='how often each model is trained (default: 3)')
    parser.add_argument('--work-dir', help='default: work_dirs/compare/NAME_OF_THE_FIRST_CONFIG')
    parser.add_argument(
        '--epochs', type=int, help="epochs of every run; the schedule is scaled (default: the configs')"
    )
    parser.add_argument(
        '--jobs',
        type=int,
        help='runs side by side, spread over the GPUs (default: one a GPU, or one on the CPU)',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision; needs an accelerator')
    parser.add_argument('--metric', default='accuracy/top1', help='what counts (default: accuracy/top1)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change every config: KEY=VALUE ...')
    args = parser.parse_args()
    for option in ('seeds', 'epochs', 'jobs'):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f'--{option} is at least 1, received {value}.')
    if args.methods and len(args.configs) > 1:
        parser.error(f'--methods takes the config of one pair, received {len(args.configs)}.')
    for method in args.methods or []:
        if method not in (ALONE, *known):
            parser.error(f'--methods: there is no method {method!r}. There are: {", ".join(known)}.')
    if not args.work_dir:
        args.work_dir = osp.join('work_dirs', 'compare', osp.splitext(osp.basename(args.configs[0]))[0])
    return args


def read_config(path: str, args: argparse.Namespace) -> Config:
    from common.report import scale_schedule

    if not osp.isfile(path):
        raise SystemExit(f'{path!r} is not a config file (looked in {osp.abspath(path)!r}).')
    cfg = Config.fromfile(path)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.epochs:
        if not cfg.train_cfg.get('max_epochs'):
            raise SystemExit(f'--epochs: {path!r} trains by iterations. Set train_cfg.max_iters with --cfg-options.')
        scale_schedule(cfg, args.epochs)
    # A race needs the last checkpoint, and a few on the way to continue from.
    total = length(cfg)
    interval = max(1, total // 10)
    hook = dict(
        type='AtomicCheckpointHook', interval=interval, by_epoch='max_epochs' in cfg.train_cfg, max_keep_ckpts=1
    )
    cfg.merge_from_dict(dict(default_hooks=dict(checkpoint=dict(hook, _delete_=True, save_last=True))))
    return cfg


def length(cfg: Config) -> int:
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters


def entries_of(args: argparse.Namespace) -> List[Entry]:
    """The models of the race; the first is what the others are compared with."""
    from common.methods import student_alone, with_method

    configs = {osp.splitext(osp.basename(path))[0]: read_config(path, args) for path in args.configs}
    if len(configs) < len(args.configs):
        raise SystemExit('Two of the configs have the same name; rename one.')
    if args.methods:
        (pair,) = configs.values()
        if 'student' not in pair.model:
            raise SystemExit(f'--methods needs the config of a distillation, and {args.configs[0]!r} is not one.')
        names = list(dict.fromkeys(name for name in args.methods if name != ALONE))
        return [
            Entry(ALONE, student_alone(pair)),
            *(Entry(name, with_method(pair, osp.join(METHODS, f'{name}.py'))) for name in names),
        ]
    entries = [Entry(name, cfg) for name, cfg in configs.items()]
    alone = [entry for entry in entries if 'student' not in entry.cfg.model]
    if not alone:
        alone = [Entry(ALONE, student_alone(entries[0].cfg))]
    return alone[:1] + [entry for entry in entries if entry is not alone[0]]


def differences(entries: List[Entry]) -> List[str]:
    """What is not the same for all, so that the race is not fair in it."""
    from common.methods import student_alone

    first = entries[0].cfg
    found = []
    for name, cfg in entries[1:]:
        found += [f'{name}: {field}' for field in SHARED if cfg.get(field) != first.get(field)]
        if 'student' in cfg.model and student_alone(cfg).model != first.model:
            alone = student_alone(cfg).model
            if {**alone, 'data_preprocessor': 0, '_scope_': 0} != {**first.model, 'data_preprocessor': 0, '_scope_': 0}:
                found.append(f'{name}: student')
    return found


def extra_parameters(entry: Entry) -> int:
    """Parameters that only training has. Building finds what is wrong with a config before anything is trained."""
    from mmengine.registry import MODELS

    model = copy.deepcopy(entry.cfg.model)
    if 'data_preprocessor' in entry.cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(entry.cfg.data_preprocessor))
    try:
        built: Any = MODELS.build(model)
    except Exception as error:
        raise SystemExit(f'{entry.name} cannot be built, so nothing was started. {error}') from error
    return sum(parameter.numel() for parameter in built.terms.parameters()) if hasattr(built, 'terms') else 0


def prepare(entry: Entry, text: str, seed: int, args: argparse.Namespace) -> Run:
    """The run of a model and a seed; with another config in its folder, the race is left alone."""
    name = f'{entry.name}_seed{seed}'
    path = osp.join(args.work_dir, 'configs', f'{name}.py')
    text += f'randomness = {dict(entry.cfg.get("randomness", {}), seed=seed)}\n'
    if osp.isfile(path):
        with open(path, encoding='utf-8') as file:
            if file.read() != text:
                raise SystemExit(
                    f'{args.work_dir!r} holds a race whose {name} has another config ({path}). Give the same command '
                    'to continue it, another --work-dir for another race, or delete it.'
                )
    return Run(entry.name, seed, osp.join(args.work_dir, name), path, text, length(entry.cfg))


def read_log(run: Run, metric: str) -> Dict[str, Any]:
    """What a run has logged so far: its curve, seconds per iteration, memory, and how far it is."""
    values: Dict[int, float] = {}
    seconds: List[float] = []
    memory, step = 0.0, 0
    for path in sorted(glob.glob(osp.join(run.folder, '*', 'vis_data', 'scalars.json'))):
        with open(path, encoding='utf-8') as file:
            for line in file:
                if not line.endswith('\n'):
                    continue  # being written, or cut off by an interruption
                record = json.loads(line)
                if metric in record:  # a resumed run repeats some
                    values[record['step']] = record[metric]
                elif 'loss' in record:
                    seconds.append(record['time'])
                    memory = max(memory, record.get('memory', 0))
                    step = max(step, record.get('epoch', record['step']))
    saved = osp.join(run.folder, 'last_checkpoint')
    done = False
    if osp.isfile(saved):
        with open(saved, encoding='utf-8') as file:
            number = re.search(r'_(\d+)\.pth', file.read())
        done = bool(number) and int(number.group(1)) == run.total and run.total in values
    steps = sorted(values)
    curve = steps, [values[i] for i in steps]
    return dict(
        curve=curve, seconds=statistics.median(seconds) if seconds else None, memory=memory, step=step, done=done
    )


class Jobs:
    """Starts runs on free slots, and follows them."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        gpus = torch.cuda.device_count()
        visible = [gpu for gpu in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if gpu]
        self.gpus = (visible or [str(i) for i in range(gpus)])[:gpus]
        self.args = args
        self.count = args.jobs or max(1, len(self.gpus))
        self.running: Dict[int, Any] = {}

    def start(self, run: Run, slot: int) -> None:
        environment = dict(os.environ)
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, [osp.join(TOOLS, '..'), os.environ.get('PYTHONPATH')]))
        if self.gpus:
            environment['CUDA_VISIBLE_DEVICES'] = self.gpus[slot % len(self.gpus)]
        environment.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // self.count)))
        for folder in (run.folder, osp.dirname(run.config)):
            os.makedirs(folder, exist_ok=True)
        with open(run.config, 'w', encoding='utf-8') as file:
            file.write(run.text)
        command = [sys.executable, osp.join(TOOLS, 'train.py'), run.config, '--work-dir', run.folder, '--resume']
        with open(osp.join(run.folder, 'train.log'), 'a', encoding='utf-8') as log:
            process = subprocess.Popen(
                command + ['--amp'] * self.args.amp, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self.running[slot] = (run, process, time.perf_counter())

    def poll(self) -> List[Any]:
        """The runs that have ended since, with their exit codes."""
        ended = []
        for slot, (run, process, start) in list(self.running.items()):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                # On Linux in KiB, on macOS in bytes.
                resident = usage.ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
                self._remember(run, resident)
                ended.append((run, process.returncode, time.perf_counter() - start))
                del self.running[slot]
        return ended

    @staticmethod
    def _remember(run: Run, resident: float) -> None:
        resident = max(resident, resident_memory(run) or 0)  # of the parts of an interrupted run
        with open(osp.join(run.folder, 'resident.json'), 'w', encoding='utf-8') as file:
            json.dump(resident, file)

    def stop(self) -> None:
        for _, process, _ in self.running.values():
            process.terminate()
        for _, process, _ in self.running.values():
            process.wait()

    def race(self, runs: List[Run]) -> List[Run]:
        """Run them all; the ones that failed are returned."""
        from tqdm import tqdm

        logs = {run: read_log(run, self.args.metric) for run in runs}
        pending = [run for run in runs if not logs[run]['done']]
        failed = []
        finished = len(runs) - len(pending)
        if finished:
            print(f'{finished} of {len(runs)} runs are finished already.', flush=True)
        # No bar where it could not be redrawn, in a log file for example; a line a run is there anyway.
        bar = tqdm(total=sum(run.total for run in runs), unit='epoch', disable=None)
        try:
            while pending or self.running:
                for slot in range(self.count):
                    if pending and slot not in self.running:
                        self.start(pending.pop(0), slot)
                time.sleep(0.5)
                for run, code, seconds in self.poll():
                    logs[run] = read_log(run, self.args.metric)
                    if code == 0 and logs[run]['done']:
                        finished += 1
                        text = f'{logs[run]["curve"][1][-1]:.1f} ({seconds:.0f} s)'
                    else:
                        failed.append(run)
                        text = f'FAILED ({code}), {osp.join(run.folder, "train.log")} ends:\n{tail(run)}'
                    tqdm.write(f'[{finished}/{len(runs)}] {run}: {text}')
                    sys.stdout.flush()
                if not bar.disable:
                    logs.update({run: read_log(run, self.args.metric) for run, _, _ in self.running.values()})
                    bar.update(sum(log['step'] for log in logs.values()) - bar.n)
        finally:
            bar.close()
            self.stop()
        return failed


def tail(run: Run, lines: int = 12) -> str:
    with open(osp.join(run.folder, 'train.log'), encoding='utf-8', errors='replace') as file:
        return ''.join(f'    {line}' for line in file.readlines()[-lines:])


def resident_memory(run: Run) -> Optional[float]:
    path = osp.join(run.folder, 'resident.json')
    if not osp.isfile(path):
        return None
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def summarize(entries: List[Entry], runs: List[Run], extra: Dict[str, int], metric: str) -> List[Dict[str, Any]]:
    """The results of each model, over those of its seeds that are finished."""
    from common.report import spread

    results: List[Dict[str, Any]] = []
    for entry in entries:
        own = [(run, read_log(run, metric)) for run in runs if run.name == entry.name]
        done = [(run, log) for run, log in own if log['done']]
        values = [log['curve'][1][-1] for _, log in done]
        results.append(
            dict(
                name=entry.name,
                seeds=[run.seed for run, _ in done],
                values=values,
                mean=statistics.mean(values) if values else None,
                std=spread(values) if values else None,
                seconds_per_iter=statistics.median(log['seconds'] for _, log in done) if done else None,
                extra_parameters=extra[entry.name],
                gpu_memory_mb=max((log['memory'] for _, log in done), default=0) or None,
                resident_memory_mb=max((resident_memory(run) or 0 for run, _ in done), default=0) or None,
                curves=[log['curve'] for _, log in done],
            )
        )
    base = results[0]
    for result in results:
        # Each seed against the same seed alone: they share weights and order of images.
        shared = [seed for seed in result['seeds'] if seed in base['seeds']]
        gains = [
            result['values'][result['seeds'].index(seed)] - base['values'][base['seeds'].index(seed)] for seed in shared
        ]
        result['gain'] = statistics.mean(gains) if gains and result is not base else None
        result['gain_std'] = spread(gains) if gains and result is not base else None
    return results


def table(results: List[Dict[str, Any]], metric: str) -> str:
    """The results as a Markdown table."""
    from common.report import markdown_table, mean_and_spread

    on_gpu = any(result['gpu_memory_mb'] for result in results)
    memory = 'gpu_memory_mb' if on_gpu else 'resident_memory_mb'
    header = [
        'model',
        f'{metric}, %',
        'gain',
        'seeds',
        's / iteration',
        'extra parameters',
        f'peak memory, MB ({"GPU" if on_gpu else "process"})',
    ]
    rows = []
    for result in results:
        if not result['values']:
            rows.append([result['name'], 'no finished run', *[''] * 5])
            continue
        gain = '' if result['gain'] is None else f'{result["gain"]:+.1f}'
        if gain and len(result['seeds']) > 1:
            gain += f' +- {result["gain_std"]:.1f}'
        rows.append(
            [
                result['name'],
                mean_and_spread(result['values']),
                gain,
                str(len(result['seeds'])),
                f'{result["seconds_per_iter"]:.3f}',
                f'{result["extra_parameters"]:,}',
                f'{result[memory] or 0:.0f}',
            ]
        )
    return markdown_table(header, rows)


def main() -> None:
    args = parse_args()
    warnings.filterwarnings('ignore', category=UserWarning)
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    # Registers its parts, and says what is missing.
    from common.report import draw_accuracies

    MMLogger.get_instance('compare', log_level='ERROR')
    init_default_scope('mmpretrain')
    entries = entries_of(args)
    unequal = differences(entries)
    for difference in unequal:
        print(f'NOT THE SAME FOR ALL, so the race is not fair in it: {difference}', flush=True)
    # Seed by seed, so that an interrupted race already compares all models.
    texts = {entry.name: entry.cfg.pretty_text for entry in entries}
    runs = [prepare(entry, texts[entry.name], seed, args) for seed in range(args.seeds) for entry in entries]
    extra = {entry.name: extra_parameters(entry) for entry in entries}
    jobs = Jobs(args)
    print(
        f'{len(entries)} models x {args.seeds} seeds = {len(runs)} runs, {jobs.count} side by side on '
        f'{len(jobs.gpus) or "no"} GPU{"s" if len(jobs.gpus) != 1 else ""}, in {args.work_dir}',
        flush=True,
    )
    # Being told to end is an interruption as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed = jobs.race(runs)
    except KeyboardInterrupt:
        raise SystemExit('Interrupted. The same command continues.') from None
    results = summarize(entries, runs, extra, args.metric)
    finished = {result['name']: result['curves'] for result in results if result['curves']}
    text = table(results, args.metric)
    note = ''.join(f'\nNot the same for all: {difference}\n' for difference in unequal)
    with open(osp.join(args.work_dir, 'race.md'), 'w', encoding='utf-8') as file:
        file.write(f'{text}\n{note}')
    with open(osp.join(args.work_dir, 'race.json'), 'w', encoding='utf-8') as file:
        json.dump(dict(metric=args.metric, not_the_same=unequal, results=results), file, indent=2)
    if finished:
        unit = 'epoch' if entries[0].cfg.train_cfg.get('max_epochs') else 'iteration'
        title = osp.splitext(osp.basename(args.configs[0]))[0]
        draw_accuracies(finished, osp.join(args.work_dir, 'race.png'), title, unit=unit)
    print(f'\n{text}\n{note}\nWritten: race.md, race.json and race.png in {args.work_dir}')
    if failed:
        raise SystemExit(f'{len(failed)} of {len(runs)} runs failed: {"; ".join(map(str, failed))}.')


if __name__ == '__main__':
    main()
