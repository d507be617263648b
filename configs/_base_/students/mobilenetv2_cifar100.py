# MobileNetV2 on CIFAR-100 at 224 px with RSD: 2 GPUs x 128 images, 300 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/cifar100_224_bs128.py',
    '../schedules/cifar100_cnn_300e.py',
    '../default_runtime.py',
]

model = dict(
    student=dict(
        cfg_path='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
        head=dict(num_classes=100, loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)),
    )
)
