"""Make `import torchaudio` work beside a CPU build of torch.

torchaudio's compiled extension links CUDA. Beside a torch without CUDA it cannot be loaded, and torchaudio takes a
broken extension for an error, but a missing one for normal: this removes it. Where the import works nothing is touched.
"""
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path


def failure(statement):
    "What `statement` prints on failure in a fresh interpreter; empty when it runs."
    run = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    return run.stderr.strip() if run.returncode else ""


def main():
    error = failure("import torchaudio")
    if not error:
        return print("torchaudio imports: nothing to repair")
    spec = importlib.util.find_spec("torchaudio")
    if spec is None:
        sys.exit(f"torchaudio is not installed in {sys.prefix}: run `make setup`")
    extension = Path(spec.origin).parent / "lib"
    if str(extension) not in error or failure("import torch; assert torch.version.cuda is None"):
        sys.exit(f"torchaudio fails to import, and not for want of CUDA beside a CPU torch:\n{error}")
    shutil.rmtree(extension)
    if error := failure("import torchaudio, torchaudio.functional"):
        sys.exit(f"torchaudio still fails to import without {extension}: reinstall it\n{error}")
    print(f"torchaudio imports: removed {extension}, which links a CUDA that this torch lacks")


if __name__ == "__main__":
    main()
