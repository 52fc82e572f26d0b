"""Examples at the end of every help: the commands of the guides, each at most 76 characters wide."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "fundusgrade predict images/ --csv out.csv",
        "fundusgrade explain eye.png --out heat.png",
        "fundusgrade preprocess aptos2019/ && fundusgrade train --arch resnet50",
        "fundusgrade COMMAND --help",
    ),
    "preprocess": (
        "fundusgrade preprocess aptos2019/",
        "fundusgrade preprocess my-clinic/ --labels graded.csv --name my-clinic",
        "fundusgrade preprocess messidor/ --grades 'R0=0,R1=1,ungradable=-'",
    ),
    "train": (
        "fundusgrade train --arch cnn",
        "fundusgrade train --arch resnet50 --data aptos2019 --name my-resnet",
        "fundusgrade train --arch resnet50 --folds 5 --name cv-resnet50",
        "fundusgrade train --data aptos2019 --data idrid --folds-by source --name far",
        "fundusgrade train --config config.yaml --name again",
        "torchrun --nproc-per-node=4 -m fundusgrade train --arch resnet50",
    ),
    "refit": (
        "fundusgrade refit my-resnet --on cv-resnet50 --name my-resnet-refitted",
        "fundusgrade refit my-resnet --on cv-resnet50 --decide-for kappa",
    ),
    "add-checks": (
        "fundusgrade add-checks my-resnet",
        "fundusgrade add-checks my-resnet --quality labels.csv --photographs images/",
    ),
    "calibrate": (
        "fundusgrade calibrate efficientnet-lite2 --data my-clinic --name my-clinic",
        "fundusgrade calibrate my-resnet --data my-clinic --name clinic --grades",
    ),
    "evaluate": (
        "fundusgrade evaluate --model my-resnet --model aptos-cnn --out results/",
        "fundusgrade evaluate --predictions cv-resnet50 --report report.html",
        "fundusgrade evaluate --model my-resnet --data other-hospital --split all",
    ),
    "compare": (
        "fundusgrade compare my-resnet my-vit my-cnn --out curves.png",
        "fundusgrade compare aptos-cnn efficientnet-lite2 vit-small",
    ),
    "audit": (
        "fundusgrade audit aptos2019",
        "fundusgrade audit aptos2019 --model my-resnet --lesions idrid/ --out audit/",
    ),
    "predict": (
        "fundusgrade predict images/ --csv out.csv",
        "fundusgrade predict scans/ archive.zip eye.dcm --csv out.csv --resume",
        "fundusgrade predict --list photographs.txt --out out.parquet",
        "fundusgrade predict images/ --out results/ --engine ray --resume",
        "fundusgrade predict images/ --csv out.csv --shard 2/4",
        "fundusgrade predict images/ --csv out.csv --by-patient patients.csv \\",
        "    --patient-pattern '(?P<patient>\\d+)_(?P<eye>left|right)'",
        "fundusgrade predict images/ --csv out.csv --report grades.html",
    ),
    "merge": (
        "fundusgrade merge images/ --csv out.csv",
        "fundusgrade merge --list photographs.txt --csv out.csv",
    ),
    "explain": (
        "fundusgrade explain eye.png --out heat.png",
        "fundusgrade explain eye.png --out panel.png --model my-cnn --model my-vit",
        "fundusgrade explain eye.png --method integrated-gradients --method grad-cam",
        "fundusgrade explain images/ --out maps/ --resume",
        "fundusgrade explain eye.png --target referable --masks masks/",
    ),
    "faithfulness": (
        "fundusgrade faithfulness aptos2019 --model my-resnet --out study/",
        "fundusgrade faithfulness --lesions idrid/ --target referable",
    ),
    "export": (
        "fundusgrade export",
        "fundusgrade export my-resnet --format openvino --int8 --split validation",
        "fundusgrade export my-resnet --format hub --out my-resnet-hub/",
    ),
    "models": (
        "fundusgrade models",
        "fundusgrade models show my-resnet",
        "fundusgrade models export my-resnet --out my-resnet.zip",
        "fundusgrade models import my-resnet.zip",
    ),
    "models list": ("fundusgrade models list",),
    "models show": ("fundusgrade models show efficientnet-lite2",),
    "models rename": ("fundusgrade models rename aptos2019-resnet50 my-resnet",),
    "models remove": ("fundusgrade models remove my-resnet other-model --yes",),
    "models import": (
        "fundusgrade models import my-resnet.zip",
        "fundusgrade models import model.safetensors --name from-a-colleague",
    ),
    "models export": (
        "fundusgrade models export my-resnet",
        "fundusgrade models export my-resnet --out my-resnet.safetensors",
    ),
    "models path": ('cp "$(fundusgrade models path my-resnet)" /media/stick/',),
    "datasets": (
        "fundusgrade datasets",
        "fundusgrade datasets show aptos2019",
        "fundusgrade datasets export aptos2019 --out aptos2019.zip",
    ),
    "datasets list": ("fundusgrade datasets list",),
    "datasets show": ("fundusgrade datasets show aptos2019",),
    "datasets rename": ("fundusgrade datasets rename aptos2019 aptos",),
    "datasets remove": ("fundusgrade datasets remove aptos2019",),
    "datasets import": ("fundusgrade datasets import aptos2019.zip --name aptos",),
    "datasets export": ("fundusgrade datasets export aptos2019 --out aptos2019.zip",),
    "datasets path": ('ls "$(fundusgrade datasets path aptos2019)"',),
    "checks": ("fundusgrade checks", "fundusgrade checks --device cuda"),
}
"""By command; "" is the application itself."""
