_base_ = ['./cascade_mask_rcnn_dat_pp_b_3x_coco.py', './_base_/runtime/fsdp.py']
