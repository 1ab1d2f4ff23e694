"""Small DETR and VisTR, written from the names that their authors publish, to compare converted networks with."""

import functools
import math

import torch
import torch.nn.functional as F
from support.published_weights import published_weights
from torch import nn

# VisTR's own hidden width, so that the published eight groups divide the mask layers; the rest is small.
WIDTH, HEADS, FFN, LAYERS, QUERIES, CLASSES, FRAMES = 384, 8, 24, 2, 3, 5, 2
BODY = "resnet18"


@functools.cache
def body_weights():
    return {name: value for name, value in published_weights(BODY).items() if not name.startswith("fc.")}


class Attending(nn.Module):
    """What the two kinds of layer share: names, and attention with positions on queries and keys, tokens first."""

    def __init__(self, width, norms):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, HEADS)
        self.linear1, self.linear2 = nn.Linear(width, FFN), nn.Linear(FFN, width)
        for number in range(norms):
            setattr(self, f"norm{number + 1}", nn.LayerNorm(width))

    def feed_forward(self, x, norm):
        return norm(x + self.linear2(self.linear1(x).relu()))


class EncoderLayer(Attending):
    def __init__(self, width):
        super().__init__(width, norms=2)

    def forward(self, x, position):
        x = self.norm1(x + self.self_attn(x + position, x + position, x)[0])
        return self.feed_forward(x, self.norm2)


class DecoderLayer(Attending):
    def __init__(self, width):
        super().__init__(width, norms=3)
        self.multihead_attn = nn.MultiheadAttention(width, HEADS)

    def forward(self, x, query, memory, position):
        x = self.norm1(x + self.self_attn(x + query, x + query, x)[0])
        x = self.norm2(x + self.multihead_attn(x + query, memory + position, memory)[0])
        return self.feed_forward(x, self.norm3)


class Block(nn.Module):
    """A block of ResNet-18."""

    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class Body(nn.Module):
    """ResNet-18 up to its last features."""

    channels = (64, 128, 256, 512)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inner = 64
        for stage, outer in enumerate(self.channels, 1):
            setattr(self, f"layer{stage}", nn.Sequential(Block(inner, outer, 1 if stage == 1 else 2), Block(outer, outer, 1)))
            inner = outer
        self.load_state_dict(body_weights())

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        return [x := layer(x) for layer in (self.layer1, self.layer2, self.layer3, self.layer4)]


def module(**parts):
    """A module that only groups others under their published names."""
    group = nn.Module()
    for name, part in parts.items():
        setattr(group, name, part)
    return group


class LiteralDETR(nn.Module):
    """The detector for one image; with 3-D positions and all tokens of a clip it is VisTR's."""

    def __init__(self, width=WIDTH, queries=QUERIES, rows=CLASSES + 1):
        super().__init__()
        self.backbone = nn.Sequential(module(body=Body()))
        self.input_proj = nn.Conv2d(Body.channels[-1], width, 1)
        self.transformer = module(
            encoder=module(layers=nn.ModuleList(EncoderLayer(width) for _ in range(LAYERS))),
            decoder=module(layers=nn.ModuleList(DecoderLayer(width) for _ in range(LAYERS)), norm=nn.LayerNorm(width)))
        self.query_embed = nn.Embedding(queries, width)
        self.class_embed = nn.Linear(width, rows)
        self.bbox_embed = module(layers=nn.ModuleList(nn.Linear(width, outer) for outer in (width, width, 4)))

    def forward(self, pixels, position):
        """Frames (T, 3, H, W) and positions (L, 1, C) of their tokens to features, memory (L, 1, C), queries, logits, boxes."""
        features = self.backbone[0].body(pixels)
        memory = self.input_proj(features[-1]).permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(1)
        for layer in self.transformer.encoder.layers:
            memory = layer(memory, position)
        query = self.query_embed.weight.unsqueeze(1)
        x = torch.zeros_like(query)
        for layer in self.transformer.decoder.layers:
            x = layer(x, query, memory, position)
        decoded = self.transformer.decoder.norm(x)[:, 0]
        box = decoded
        for layer in self.bbox_embed.layers:
            box = layer(box if box is decoded else box.relu())
        return features, memory, decoded, self.class_embed(decoded), box.sigmoid()


class LiteralMaskHead(nn.Module):
    """DETR's and VisTR's mask head up to its fifth layer; ``fifth`` is the published name of that layer."""

    def __init__(self, fifth):
        super().__init__()
        inner = [WIDTH + HEADS, WIDTH + HEADS, WIDTH // 2, WIDTH // 4, WIDTH // 8, WIDTH // 16]
        self.fifth = fifth
        for number in range(1, 6):
            # A deformable convolution without offsets is a plain one; it has no bias.
            conv = nn.Conv2d(inner[number - 1], inner[number], 3, padding=1, bias=fifth == "lay5" or number < 5)
            setattr(self, f"lay{number}" if number < 5 else fifth, conv)
            setattr(self, f"gn{number}", nn.GroupNorm(8, inner[number]))
        for number, channels in enumerate(reversed(Body.channels[:3]), 1):
            setattr(self, f"adapter{number}", nn.Conv2d(channels, inner[number + 1], 1))
        if fifth == "lay5":
            self.out_lay = nn.Conv2d(inner[5], 1, 3, padding=1)
        else:
            self.conv_offset = nn.Conv2d(inner[4], 18, 1)
            nn.init.zeros_(self.conv_offset.weight)
            nn.init.zeros_(self.conv_offset.bias)

    def forward(self, memory_CHW, attention_AHW, levels):
        """The features of one query in one frame."""
        x = torch.cat((memory_CHW, attention_AHW)).unsqueeze(0)
        for number in range(1, 6):
            if number > 2:
                fine = getattr(self, f"adapter{number - 2}")(levels[5 - number].unsqueeze(0))
                x = fine + F.interpolate(x, size=fine.shape[-2:], mode="nearest")
            conv = getattr(self, f"lay{number}" if number < 5 else self.fifth)
            x = getattr(self, f"gn{number}")(conv(x)).relu()
        return x[0]


class LiteralAttentionMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_linear, self.k_linear = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, query_C, memory_CHW):
        query, key = self.q_linear(query_C), torch.einsum("dc,chw->dhw", self.k_linear.weight, memory_CHW)
        key = key + self.k_linear.bias[:, None, None]
        side = WIDTH // HEADS
        logits = torch.stack([torch.einsum("d,dhw->hw", query[at: at + side] / math.sqrt(side), key[at: at + side])
                              for at in range(0, WIDTH, side)])
        return logits.flatten().softmax(0).view_as(logits)


def literal_segmenter(kind):
    """DETR's or VisTR's network with masks, with three queries per frame."""
    torch.manual_seed(1)
    masks = {"bbox_attention": LiteralAttentionMap(), "mask_head": LiteralMaskHead("lay5" if kind == "detr" else "dcn")}
    if kind == "detr":
        return randomised(module(detr=LiteralDETR(), **masks))
    layers = []
    for channels in (WIDTH // 16, WIDTH // 32, WIDTH // 32):
        layers += [nn.Conv3d(channels, WIDTH // 32, 3, padding=2, dilation=2), nn.GroupNorm(4, WIDTH // 32), nn.ReLU()]
    head = nn.Sequential(*layers, nn.Conv3d(WIDTH // 32, 1, 1))
    return randomised(module(vistr=LiteralDETR(queries=QUERIES * FRAMES), insmask_head=head, **masks))


def randomised(network):
    """Makes biases and norms random too: with their initial zeros and ones, a wrong place could go unnoticed."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1 and ".body." not in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    return network.double().eval()
