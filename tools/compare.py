# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Compare distillation methods over several seeds: ``python tools/compare.py PAIR.py --methods rsd kd dkd --seeds 3``.

Trains the student alone and with every method. For a seed, all models start from
the same student and see the same images in the same order. Every run is a
tools/train.py with its own work dir; an interrupted race resumes when the command is
repeated. Writes race.md, race.json and race.png to the work dir.
"""

import argparse
import json
import os.path as osp
import signal
import warnings

from common.arguments import ALONE, add_cfg_options, known_methods, name_of, positive_int


def parse_args() -> argparse.Namespace:
    methods = known_methods()
    parser = argparse.ArgumentParser(description='Compare distillation methods over several seeds')
    parser.add_argument('configs', nargs='+', help='configs of the same student or, with --methods, of one pair')
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=[ALONE, *methods],
        metavar='METHOD',
        help=f"train these methods instead of the pair's own: {', '.join(methods)}",
    )
    parser.add_argument('--seeds', type=positive_int, default=3, help='runs of each model (default: 3)')
    parser.add_argument('--work-dir', help='default: work_dirs/compare/NAME_OF_THE_FIRST_CONFIG')
    parser.add_argument('--epochs', type=positive_int, help="scale the schedule to this many (default: the configs')")
    parser.add_argument('--jobs', type=positive_int, help='parallel runs (default: one per GPU, or one on the CPU)')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision; needs an accelerator')
    parser.add_argument('--metric', default='accuracy/top1', help='metric to compare (default: accuracy/top1)')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.methods and len(args.configs) > 1:
        parser.error(f'--methods takes the config of one pair, received {len(args.configs)}.')
    if not args.work_dir:
        args.work_dir = osp.join('work_dirs', 'compare', name_of(args.configs[0]))
    return args


def main() -> None:
    args = parse_args()
    # Importing mmpretrain warns as well.
    warnings.filterwarnings('ignore', category=UserWarning)
    from common.configs import hide_warnings
    from common.jobs import Jobs
    from common.race import count_extra_parameters, list_differences, load_models, plan_runs
    from common.report import draw_accuracies
    from common.results import results_table, summarize

    hide_warnings()
    models = load_models(args)
    differences = list_differences(models)
    for difference in differences:
        print(f'NOT THE SAME FOR ALL, so the race is not fair: {difference}', flush=True)
    extra, left_out = count_extra_parameters(models, [name for name in args.methods or () if name != ALONE])
    for name, reason in left_out.items():
        print(f'LEFT OUT, since it does not fit the pair: {name}. {reason}', flush=True)
    models = {name: models[name] for name in extra}
    runs = plan_runs(models, args.seeds, args.work_dir)
    jobs = Jobs(args.jobs, args.metric, args.amp)
    print(
        f'{len(models)} models x {args.seeds} seeds = {len(runs)} runs, {jobs.count} side by side on '
        f'{len(jobs.gpus) or "no"} GPU{"s" if len(jobs.gpus) != 1 else ""}, in {args.work_dir}',
        flush=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Same as Ctrl-C.
    try:
        failed = jobs.run(runs)
    except KeyboardInterrupt:
        raise SystemExit('Interrupted. Repeat the command to resume.') from None
    results = summarize(runs, extra, args.metric)
    table = results_table(results, args.metric)
    note = ''.join(f'\nNot the same for all: {difference}\n' for difference in differences)
    note += ''.join(f'\nLeft out: {name}. {reason}\n' for name, reason in left_out.items())
    with open(osp.join(args.work_dir, 'race.md'), 'w', encoding='utf-8') as file:
        file.write(f'{table}\n{note}')
    with open(osp.join(args.work_dir, 'race.json'), 'w', encoding='utf-8') as file:
        json.dump(
            dict(metric=args.metric, not_the_same=differences, left_out=left_out, results=results), file, indent=2
        )
    curves = {result['name']: result['curves'] for result in results if result['curves']}
    if curves:
        unit = 'epoch' if next(iter(models.values())).train_cfg.get('max_epochs') else 'iteration'
        draw_accuracies(curves, osp.join(args.work_dir, 'race.png'), name_of(args.configs[0]), unit=unit)
    print(f'\n{table}\n{note}\nWritten: race.md, race.json and race.png in {args.work_dir}')
    if failed:
        raise SystemExit(f'{len(failed)} of {len(runs)} runs failed: {"; ".join(map(str, failed))}.')


if __name__ == '__main__':
    main()
