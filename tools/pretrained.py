"""Write a model that a sweep has kept to muni_nb/trained, for `muni_nb.pretrained(name)`.

  python tools/pretrained.py digits results/runs/models/MUNI-1-15cf9e53
  python tools/pretrained.py        what there is

In half precision, with its run and the figures of its result, if the sweep's folder has one. Scenes as features are
drawn once for what they are standardised by: a minute or two.
"""
import argparse
from pathlib import Path

from muni_nb.experiments.pretrained import SHIPPED, pretrained, shipped, write_trained
from muni_nb.nets.build import check_name


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("kept", nargs="?", type=Path, help="folder of the model, with its run.yaml")
    told = parser.parse_args(arguments)
    if told.name and not told.kept: parser.error(f"name the folder of the model for {told.name!r}")
    if told.name:
        write_trained(told.kept, SHIPPED / check_name(told.name, "pretrained model"))
        print(pretrained(told.name))
    print(shipped().to_string())


if __name__ == "__main__": main()
