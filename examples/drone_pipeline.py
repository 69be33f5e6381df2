"""A drone's pipeline: frames in, masks and areas out, until Ctrl-C or SIGTERM. docs/embedding.md explains it.

Run it with: python examples/drone_pipeline.py SOURCE [MODEL]
"""

import json
import signal
import sys

from emra_deploy import EmraError, Segmenter, Stream, StreamOptions

METRES_PER_PIXEL = 0.05  # flying height [m] x sensor width [mm] / (focal length [mm] x picture width [pixels])


def main(source: str, model: str | None = None) -> None:
    options = StreamOptions(max_age=5.0)  # drop results of older frames of a live source
    with Segmenter.open(model) as segmenter, Stream(segmenter, source, options) as stream:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stream.stop())
        for result in stream:
            mask = result.labels  # uint8, height x width: indices into segmenter.classes.names
            areas = {area.name: area.square_metres for area in result.areas(METRES_PER_PIXEL**2)}
            report = {"frame": result.frame.index, "age": result.age, "mask": mask.shape, "square_metres": areas}
            sys.stdout.write(json.dumps(report) + "\n")  # replace: MAVLink, ROS 2, MQTT, a file ...
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except EmraError as error:
        sys.exit(f"drone_pipeline: {error}")
