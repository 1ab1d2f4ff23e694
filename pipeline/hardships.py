"""Prints how often each hardship occurs in the drawn videos, and draws a few videos: frames above, ground truth below.

The videos are drawn anew from the parameters; nothing has to be downloaded or indexed first.
"""

from __future__ import annotations

from pathlib import Path

from effvis.errors import UserError
from pipeline.system.arguments import positive_int
from pipeline.system.cli import parser, progress_bar


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.hardships")
    arguments.add_argument("--split", choices=("train", "val", "test"), default="val", help="which split (default: val)")
    arguments.add_argument("--videos", type=positive_int, help="how many of its videos to measure (default: all)")
    arguments.add_argument("--out", type=Path, help="folder for pictures of the first videos (default: none are drawn)")
    arguments.add_argument("--pictures", type=positive_int, default=3, help="how many pictures to draw (default: 3)")
    arguments.add_argument("--scale", type=positive_int, default=1, help="enlargement of the frames (default: 1)")
    args = arguments.parse_args(argv)

    from effvis.data.synthetic.hardships import measure
    from effvis.data.synthetic.shapes import draw_video
    from pipeline.reporting.overlays import sample_strip
    from pipeline.settings.loading import load_params

    config = load_params(args.params, args.set).shapes_config
    if args.split not in config.videos:
        raise UserError(args.params, "shapes.test_videos", "is 0, so that no test split is drawn",
                        "Give a number (-S shapes.test_videos=320), or another --split")
    available = config.videos[args.split]
    count = min(args.videos or available, available)
    videos = []
    with progress_bar("drawing videos") as progress:
        for number in range(count):
            videos.append(draw_video(config, args.split, number))
            progress(number + 1, count)
    if not any(video.tracks for video in videos):
        raise UserError(args.params, "shapes", "no instance is to be seen in these videos", "Draw more, or larger shapes")
    for name, value in measure(videos).items():
        print(f"{name:50}{value:g}" if isinstance(value, int) else f"{name:50}{value:.2f}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        for number, video in enumerate(videos[:args.pictures], start=1):
            # Grain makes a PNG large; only JPEG keeps the picture small.
            path = args.out / f"{number}.jpg"
            sample_strip(video, config, scale=args.scale).save(path, quality=80, optimize=True)
            print(path)
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
