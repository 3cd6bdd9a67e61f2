"""Images of a data set as eight-bit tensors: read from files, cut into halves and subsets, resized, summed up."""

from engine.images.files import FORMATS, decode, decode_file, upright_rgb
from engine.images.folders import SUFFIXES, FileSet, class_folders, decode_split, list_files
from engine.images.presence import DatasetFault, DatasetMissing, require_folder
from engine.images.published import fetch
from engine.images.tensors import checksum, grey_to_rgb, hold_out, prepare, resize_u8, subset

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "DatasetFault",
    "DatasetMissing",
    "FileSet",
    "checksum",
    "class_folders",
    "decode",
    "decode_file",
    "decode_split",
    "fetch",
    "grey_to_rgb",
    "hold_out",
    "list_files",
    "prepare",
    "require_folder",
    "resize_u8",
    "subset",
    "upright_rgb",
]
