"""The meaning of each word that a run prints or logs: for TensorBoard's curves and for docs/legend.md."""

import re

# The words of the bar, of the first lines, and the names in stats.jsonl and TensorBoard: name -> meaning. `*` in a name
# stands for anything.
BAR: dict[str, str] = {
    "62%  681/1,094": "How much of the run is done, and steps: those done, and all. A step is one turn of G.",
    "0:31 left": "Hours, minutes and seconds that the rest will take at the present speed, measurements included.",
    "img/s": "Real images that training takes in a second, since the last log line. Pictures, validation and metrics "
    "do not count.",
    "G, D": "The losses of the generator and of the discriminator: `loss/G` and `loss/D`. CycleGAN has two of each.",
    "fid, kid, ...": "The latest metrics: `metric/...`.",
    "D right": "The shares of images that D judges correctly: real training images / generated images / real images "
    "that are held out. 0.5 is guessing. Near 1/1/1, G learns little. Near 1/1/0.2, D knows its images by heart.",
    "spread": "How different generated images are from each other, in relation to real images: `health/spread`. 1 is "
    "as in real images; near 0, all look the same (collapse).",
    "health": "`ok`, or the names of the alarms whose limit is crossed now. An alarm is said once it lasts.",
}
BANNER: dict[str, str] = {
    "run": "The folder of the run. Everything that it makes is in there.",
    "device": "Where it trains, in which precision, and in how many processes.",
    "data": "The data set, how many images train and how many are held out, and their height, width and channels.",
    "networks": "Each network and how many numbers training changes in it.",
    "duration": "How long training goes on, as steps, images and epochs, and how many images a step takes.",
    "forecast": "The time and the memory that the run will need, from a few steps that are undone.",
    "every": "How many steps lie between log lines, validations, pictures, metrics and checkpoints.",
    "metrics": "What is measured, on how many generated images, and by which feature extractor.",
    "resume": "The command that goes on with this run, however it ended.",
}
TAGS: dict[str, str] = {
    "loss/D*": "Loss of the discriminator, averaged since the last log line. Its scale depends on loss=. Near 0, D "
    "tells all fakes from reals, and G may learn little.",
    "loss/G*": "Adversarial loss of the generator, averaged since the last log line. It tells how well G fools the D "
    "of that moment, not how good the images are.",
    "loss/cycle*": "CycleGAN: how far an image is from itself after translation to the other kind and back, times "
    "model.cycle. Lower is better.",
    "loss/identity*": "CycleGAN: how much a generator changes an image that is of its kind already, times "
    "model.identity. Lower is better.",
    "loss/*": "A penalty or a further loss, times its weight, averaged over the steps in which it was due.",
    "loss_ema/*": "The same loss, smoothed: a moving average with a half-life of the share loss_ema of all images "
    "seen.",
    "regularizer/path_length/length*": "StyleGAN2: how far images move for a step in w, on average. It should settle.",
    "regularizer/*": "A statistic of a penalty, such as the size of a gradient, averaged since the last log line.",
    "logits/real*": "D's mean output for real training images, before any sigmoid. Larger means more real.",
    "logits/fake*": "D's mean output for generated images, before any sigmoid. Larger means more real.",
    "accuracy/real*": "Share of the real training images that D takes for real, in training, after augmentation.",
    "accuracy/fake*": "Share of the generated images that D takes for generated, in training, after augmentation.",
    "validation/loss/*": "The same loss on held-out real images and new fakes, without augmentation and dropout in "
    "D. If it rises for D while loss/D falls, D overfits.",
    "validation/logits/*": "D's mean output for held-out real images, or for the new fakes that it meets beside them.",
    "validation/accuracy/*": "Share of the held-out real images, or of the new fakes beside them, that D judges "
    "correctly. If it falls for real images while accuracy/real rises, D knows its images by heart.",
    "ada/p*": "ADA: probability of each augmentation, from 0 to 1. It rises while D overfits.",
    "ada/r*": "ADA: mean sign of D's outputs for real training images, which p steers towards augment.ada.target.",
    "health/spread*": "Distance between two generated images over that between two real ones, without brightness and "
    "contrast. 1 is as in real images; near 0, all look the same (collapse).",
    "health/gradient*": "Norm of a player's gradients over the norm of its weights, after its last step. A jump "
    "warns of explosion; next to 0, the network hardly learns.",
    "health/right*": "D's accuracy on real or on generated images, whichever is lower. Near 1, G learns little.",
    "health/ada*": "ADA's p, which an alarm watches: near 1, ADA can do no more.",
    "health/modes*": "Share of the modes of the data that generated samples covered in the newest measurement. Two "
    "alarms watch it.",
    "health/r_t*": "Mean sign of D's outputs for real training images, from -1 to 1 (Karras et al. 2020b). Near 1, D "
    "is sure of its images and may overfit.",
    "health/r_v*": "Overfitting of D (Karras et al. 2020b): 0 if D scores held-out images like training images, 1 if "
    "like generated ones. Left out while D can hardly tell real from generated.",
    "learning_rate/*": "Learning rate of a player's optimizer at this moment.",
    "optimizer/*": "A setting of an optimizer that a schedule moves.",
    "augment/*": "A strength of an augmentation that a schedule moves.",
    "data/augment/*": "A strength of the augmentation of real images that a schedule moves.",
    "ema/half_life": "Half-life of the averaged generators in kimg, which a schedule moves.",
    "turns/top": "Share of its fakes that G learns from, those that D scores highest, which a schedule moves.",
    "speed/images_per_second": "Real images that training takes in a second, without pictures, validation and metrics.",
    "speed/measuring": "Share of the time since the start that metrics have taken, from 0 to 1.",
    "memory/gigabytes": "Peak memory of the device in GB; on a CPU, of the process.",
    "metric/fid*": "Frechet distance between features of generated and of real images; lower is better. Compare only "
    "what was measured in the same way.",
    "metric/kid_std*": "Standard deviation of KID over the subsets that it is averaged over.",
    "metric/kid*": "Kernel distance between features of generated and of real images; lower is better. It has no "
    "bias for few images.",
    "metric/isc_std*": "Standard deviation of the Inception score over its parts.",
    "metric/isc*": "Inception score: how clear and how varied the classes of generated images are; higher is better.",
    "metric/precision*": "Share of the generated images that lie among real ones: how real they look, from 0 to 1.",
    "metric/recall*": "Share of the real images that lie among generated ones: how much of the variety G has, from 0 "
    "to 1.",
    "metric/density*": "How many real neighbourhoods hold a generated image, on average: how real they look. It may "
    "exceed 1.",
    "metric/coverage*": "Share of the real images with a generated one nearby: how much of the variety G has, from 0 "
    "to 1.",
    "metric/ppl*": "Perceptual path length: how much images change for a small step of the latent; lower is smoother.",
    "metric/modes*": "Modes of the data that at least one generated sample covers: centres of points, or classes of "
    "digits.",
    "metric/high_quality*": "Share of generated points within three standard deviations of the nearest centre.",
    "metric/reverse_kl*": "Reverse KL divergence, in nats, of the modes of generated samples from the uniform "
    "distribution: 0 if all modes are equally frequent. N real samples of K modes have about (K - 1) / 2N.",
    "metric/successive_fid*": "FID between generated images of this measurement and of the one before; near 0, G has "
    "stopped changing or has collapsed.",
    "metric/*": "A metric of generated images, by gan-fid's names.",
    "final/*": "The metric at the end of the run.",
}
# TensorBoard's custom charts: title -> the curves in one chart, as patterns of whole names.
CHARTS = {
    "loss": {"D": r"(validation/)?loss/D.*", "G": r"(validation/)?loss/G.*"},
    "D is right": {
        "real images": r"(validation/)?accuracy/real.*",
        "generated images": r"(validation/)?accuracy/fake.*",
    },
    "D's output": {
        "training": r"logits/(real|fake).*",
        "real images": r"(validation/)?logits/real.*",
        "generated images": r"(validation/)?logits/fake.*",
    },
}


def meaning(tag: str) -> str:
    """The sentence about a name in stats.jsonl or TensorBoard; the first that fits. "" for an unknown name."""
    return next((text for name, text in TAGS.items() if re.fullmatch(re.escape(name).replace(r"\*", ".*"), tag)), "")


def markdown() -> str:
    """docs/legend.md, in Markdown."""
    return "\n".join(
        [
            "# Legend: what a run says",
            "",
            "<!-- Made by: python scripts/config_reference.py legend > docs/legend.md -->",
            "",
            "TensorBoard shows the sentences of the last table beside its curves: press the i in a curve's corner.",
            "Its tab `Custom Scalars` has training and validation in one chart.",
            "",
            "## The bar",
            "",
            *_table("word", BAR),
            "## The first lines",
            "",
            *_table("line", BANNER),
            "## Names in stats.jsonl, metrics.jsonl and TensorBoard",
            "",
            "`*` stands for anything, such as `_A` and `_B` of CycleGAN's two discriminators. `metrics.jsonl` has the",
            "metrics without `metric/` before their names.",
            "",
            *_table("name", TAGS),
        ]
    )


def _table(title: str, words: dict[str, str]) -> list[str]:
    return [f"| {title} | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in words.items()), ""]
