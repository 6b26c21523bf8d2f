"""The API reference of every module, by pdoc; a docstring that pdoc warns about is an error.

python tools/make_docs.py --out out/docs
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ["PDOC_ALLOW_EXEC"] = "1"  # imports of torch and others look at the machine by running programs

import perception
from perception.cli.options import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/docs"), help="folder of the pages; default: out/docs")
    args = parser.parse_args()

    import pdoc
    from torch import nn

    nn.Module.__init__.__doc__ = nn.Module.forward.__doc__ = None  # texts of torch's own, which ours would inherit
    root = Path(perception.__file__).parent
    for name in perception.__all__:
        setattr(
            perception, name, getattr(perception, name)
        )  # pdoc does not see names that are imported when first used
    paths = sorted(path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py"))
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        warnings.filterwarnings("ignore", "The module specification")  # pdoc finds most submodules itself
        warnings.filterwarnings("ignore", "Error parsing type annotation ForwardRef")  # NamedTuples of imported types
        pdoc.pdoc(*modules, output_directory=args.out)
    print(args.out / "index.html")


if __name__ == "__main__":
    run_main(main)
