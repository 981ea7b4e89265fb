"""nnunetv2_clip trainers-path"""


def add_arguments(parser):
    pass


def run(args):
    import nnunetv2_clip.trainers

    print(next(iter(nnunetv2_clip.trainers.__path__)))
