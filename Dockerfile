# A runtime of nnunetv2_clip, without a compiler. docs/docker.md shows how it is used.
#   docker build -t nnunetv2_clip .                                   torch as PyPI has it: with CUDA on Linux
#   docker build -t nnunetv2_clip:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# The largest layer first: it stays when the package changes. The wheels bring CUDA's libraries; the host gives the driver.
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

COPY . /opt/nnunetv2_clip
RUN pip install --no-cache-dir "/opt/nnunetv2_clip[swin]"

# Everything that is written lies below /data, for any user: caches, downloaded models, nnU-Net's three folders.
RUN mkdir -p /data && chmod 1777 /data
ENV HOME=/data
ENV nnUNet_raw=/data/nnUNet_raw
ENV nnUNet_preprocessed=/data/nnUNet_preprocessed
ENV nnUNet_results=/data/nnUNet_results
WORKDIR /data
USER 1000:1000

# The build fails where a command or the trainer is not found.
RUN nnunetv2_clip --version && nnUNetv2_predict --help > help.txt && rm help.txt
RUN python -c "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find; find('CLIPUniversalTrainer')"

CMD ["nnunetv2_clip", "--help"]
