"""Sources, licences and folder layouts of public data sets: the content of `docs/data.md`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicData:
    """A data set published by others; nothing here downloads it.

    Attributes:
        kind: As `training.data.open_dataset` takes it.
        title: Name and contents.
        page: Address of its own page; empty for custom data.
        how: Steps to obtain it from that page.
        licence: Terms of use.
        layout: Lines that show its folder.
        splits: Names of its splits.
    """

    kind: str
    title: str
    page: str
    how: str
    licence: str
    layout: tuple[str, ...]
    splits: str

    @property
    def root(self) -> str:
        """Folder name in the documentation's commands."""
        return f"data/{self.kind}"

    def lines(self) -> list[str]:
        """The description for a terminal."""
        lines = [self.title]
        lines += [f"  page     {self.page}"] if self.page else []
        lines += [f"  get it   {self.how}", f"  licence  {self.licence}", f"  splits   {self.splits}"]
        lines += ["  layout", *(f"    {line}" for line in self.layout)]
        return [*lines, f"  check    python -m training.data {self.kind} {self.root} --split val"]


PUBLIC = (
    PublicData(
        "dubai",
        "Semantic segmentation of aerial imagery, Dubai: 72 satellite pictures, 5 classes",
        "https://humansintheloop.org/resources/datasets/semantic-segmentation-dataset-2/",
        "Humans in the Loop sends the archive to the address given on the page; unpack it into data/dubai",
        "CC0 1.0, by Humans in the Loop and the Mohammed Bin Rashid Space Centre",
        (
            "data/dubai/Tile 1/images/image_part_001.jpg",
            "data/dubai/Tile 1/masks/image_part_001.png",
            "or flat: data/dubai/images/tile1_part001.jpg, data/dubai/masks/tile1_part001.png",
        ),
        "train (parts 1 to 6), val (7), trainval, test (8, 9)",
    ),
    PublicData(
        "loveda",
        "LoveDA: land cover of Nanjing, Changzhou and Wuhan at 0.3 m, 5,987 pictures, 7 classes",
        "https://zenodo.org/records/5706578",
        "Download Train.zip, Val.zip and Test.zip from the page, and unpack them into data/loveda",
        "CC BY-NC-SA 4.0: no commercial use",
        (
            "data/loveda/Train/Urban/images_png/1366.png",
            "data/loveda/Train/Urban/masks_png/1366.png",
            "likewise Train/Rural, Val and Test; Test has no masks",
        ),
        "train, val, trainval; the labels of test are not public",
    ),
    PublicData(
        "potsdam",
        "ISPRS 2D semantic labelling, Potsdam: 38 true orthophotos at 0.05 m, 6 classes",
        "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/",
        "The page links the archive and gives its password; unpack 2_Ortho_RGB and 5_Labels_all into data/potsdam",
        "no open licence: the terms on the page ask that ISPRS be named; read them before any commercial use",
        (
            "data/potsdam/2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
            "data/potsdam/5_Labels_all/top_potsdam_2_10_label.tif",
        ),
        "train, val (tile 2_10), trainval, test",
    ),
    PublicData(
        "vaihingen",
        "ISPRS 2D semantic labelling, Vaihingen: 33 true orthophotos (infrared, red, green) at 0.09 m, 6 classes",
        "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/",
        "The page links the archive and gives its password; unpack the semantic labelling archive into data/vaihingen",
        "no open licence: the terms on the page ask that DGPF and ISPRS be named; read them before any commercial use",
        (
            "data/vaihingen/top/top_mosaic_09cm_area1.tif",
            "data/vaihingen/gts_for_participants/top_mosaic_09cm_area1.tif",
        ),
        "train, val (area 30), trainval, test",
    ),
    PublicData(
        "folder",
        "Your own pictures, or generated ones",
        "",
        "python -m training.data generate data/folder makes 16 labelled scenes; or lay out your own likewise",
        "yours; generated scenes are under this project's",
        (
            "data/folder/classes.yaml, such as: names: [background, house]",
            "data/folder/images/train/a.png (or .jpg, .tif)",
            "data/folder/masks/train/a.png of the same size",
            "likewise val; or no subfolders, and lists of names in train.txt and val.txt",
        ),
        "yours; all is every pair",
    ),
)
"""In the order of `docs/data.md`."""
