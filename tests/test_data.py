"""gan-data: what it says of a set, and what it makes of one."""

# gan-data


def test_report(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_folder / "0.png").rename(data_folder / "6.png")  # the same picture twice, and one file that is none
    (data_folder / "0.png").write_bytes((data_folder / "6.png").read_bytes())
    _text(data_folder / "7.jpg")
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8", "data.validation=2"]
    assert cli.command("data", arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: data.max_rejected=0.01: 1 of 8 images cannot be used, the first 7.jpg")
    arguments.append("data.max_rejected=0.2")
    assert cli.command("data", arguments) == 0
    out, err = capsys.readouterr()
    path = Path(out.removesuffix("\n"))
    assert path.parent == data_folder / "packed" and about(path)["images"] == 7
    for text in [
        "folder: 7 images of 8x8x3",
        "found 8",
        "modes RGB 7",
        "sizes 8x8 7",
        "1 exact duplicates",
        "warning: 1 rejected",
        "7.jpg: not an image",
        "5 to train on, 2 held out",
    ]:
        assert text in err
    with Image.open(path.with_suffix(".png")) as preview:
        assert preview.size == (32, 32)  # three by three, with margins
        assert np.array_equal(np.asarray(preview)[2:10, 2:10].transpose(2, 0, 1), pixels(path)[0])


def test_json_alone_on_stdout(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8", "json=true"]
    for _ in range(2):  # packing, and finding it packed
        assert cli.command("data", arguments) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert about(Path(told["path"])).items() <= told.items() and Path(told["preview"]).is_file()
        assert told["recipe"]["resolution"] == 8 and told["images"] == 6 and told["rejected"] == {}
        assert "folder: 6 images of 8x8x3" in err


def test_missing_images_are_told(data_mnist: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command("data", ["data=mnist", f"data.root={data_mnist()}"]) == 0
    out, err = capsys.readouterr()
    assert f"found {TRAIN + TEST}, expected 70,000" in err and "warning: 69,640 images are missing" in err
    assert f"{TRAIN} to train on, {TEST} held out" in err and Path(out.strip()).is_file()
