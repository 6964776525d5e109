"""A browser opens the page: asks, reads, stops, edits, changes the language, watches a run, by mouse and by keyboard.

Runs where Chromium and its driver are (Debian: chromium, chromium-driver).
"""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from paddle_xc2.generation.sampling import SamplingSettings
from paddle_xc2.serving.limits import Limits
from paddle_xc2.serving.web_page import WebExample, WebPage
from tests.serving.conftest import data_url, picture, running

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium with a chromedriver here")
LIMITS = Limits(max_new_tokens=8, max_images=3)
NASTY = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    folder.mkdir()
    lines = [{"step": 10 * step, "loss": 1 / step, "learning_rate": 1e-3, "peak_memory_gb": 0.5} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = [{"step": step, "question": NASTY, "image": "/x/cat.png", "answer": f"after {step}"} for step in (0, 20)]
    (folder / "evaluation_samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    return folder


@pytest.fixture(scope="module")
def server(served, run_folder):
    page = WebPage(SamplingSettings(), LIMITS, [WebExample("Which digit?", (data_url(picture(5)),))], run_folder)
    with running([served], LIMITS, page=page) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(DRIVER))
    yield browser
    browser.quit()


class Page:
    """The page in a browser, opened anew."""

    def __init__(self, browser, server):
        self.browser = browser
        browser.get(server.url)
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        browser.get(server.url)
        self.until(lambda: self.find("#model option"))

    def find(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition):
        return WebDriverWait(self.browser, 30).until(lambda _: condition())

    def ask(self, text, *pictures):
        for path in pictures:
            before = len(self.find("#pending img"))
            self.one("#files").send_keys(str(path))
            self.until(lambda before=before: len(self.find("#pending img")) == before + 1)
        turns = len(self.find("#turns li"))
        self.one("#question").send_keys(text + Keys.ENTER)
        self.until(lambda: len(self.find("#turns li")) == turns + 1)

    def wait_for_the_end(self):
        self.until(lambda: not self.one("#stop").is_displayed())

    def answers(self):
        script = "return [...document.querySelectorAll('#turns .answer > p:first-child')].map((p) => p.textContent)"
        return self.browser.execute_script(script)  # at once: an answer that grows is replaced all the time


@pytest.fixture
def page(browser, server):
    return Page(browser, server)


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / "first.png", tmp_path / f"{NASTY.replace('/', '-')[:60]}.png"]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return paths


def by_chat(served, text, images, history=()):
    settings = {"do_sample": False, "max_new_tokens": 8, "repetition_penalty": 1.0}
    return served.model.chat(served.tokenizer, text, images, history, **settings)[0]


def same(shown, want):
    return " ".join(shown.split()) == " ".join(want.split())


def test_two_turns_with_a_picture_each(page, served, pictures):
    page.ask("Which digit is it?", pictures[0])
    page.wait_for_the_end()
    page.ask("And which is larger?", pictures[1])
    page.wait_for_the_end()
    images = [picture(0), picture(1)]
    first = by_chat(served, "Which digit is it?", images[:1])
    history = [("<ImageHere>Which digit is it?", first)]
    second = by_chat(served, "<ImageHere>And which is larger?", images, history)
    assert [same(*pair) for pair in zip(page.answers(), (first, second), strict=True)] == [True, True]
    assert page.one("#problem").text == "" and page.browser.title == "paddle-xc2"


def test_texts_and_file_names_are_never_html(page, pictures):
    page.ask(NASTY, pictures[1])
    page.wait_for_the_end()
    assert page.one("#turns .question p").text == NASTY
    assert page.browser.title == "paddle-xc2" and not page.find("#turns script")


def test_a_long_answer_is_stopped(page, server):
    page.one("#settings summary").click()
    page.one("#max_completion_tokens").send_keys("1500")
    page.ask("Tell me everything.")
    page.until(lambda: page.answers() and page.answers()[0])
    page.one("#stop").click()
    page.wait_for_the_end()
    assert "(stopped)" in page.one("#turns .answer").text
    page.until(lambda: sum(server.engine.load) == 0)


def test_a_question_is_changed_and_asked_again(page, served):
    page.ask("What?")
    page.wait_for_the_end()
    first = page.answers()
    page.find("#turns .tools button")[1].click()
    page.wait_for_the_end()
    assert page.answers() == first
    page.find("#turns .tools button")[0].click()
    assert not page.find("#turns li") and page.one("#question").get_property("value") == "What?"
    page.ask(" And why?")
    page.wait_for_the_end()
    assert page.one("#turns .question p").text == "What? And why?"
    assert same(page.answers()[0], by_chat(served, "What? And why?", None))
    page.one("#undo").click()
    assert not page.find("#turns li")


def test_an_example_is_asked_by_the_keyboard_alone(page):
    page.one("#examples button").send_keys(Keys.ENTER)
    page.until(lambda: page.find("#pending img"))
    assert page.browser.switch_to.active_element.get_attribute("id") == "question"
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.until(lambda: page.find("#turns li"))
    page.wait_for_the_end()
    assert page.one("#turns .question p").text == "Which digit?" and page.find("#turns .question img")


def test_boxes_are_drawn_on_the_picture(page, pictures):
    page.ask("Where?", pictures[0])
    page.wait_for_the_end()
    script = """
        const [text, done] = arguments;
        import("/page/server.js").then(async ({ post }) => done(await (await post("/page/boxes", { text })).json()));
    """
    boxes = page.browser.execute_async_script(script, "<ref>it</ref><box>(250,250),(750,1000)</box>")
    assert boxes == [{"name": "it", "box": [0.25, 0.25, 0.75, 1]}]


def test_the_language_is_changed_and_remembered(page, server):
    assert page.one("#send").text == "Send"
    page.one("#language").click()
    assert page.one("#send").text == "发送" and page.one("html").get_attribute("lang") == "zh-CN"
    page.browser.get(server.url)
    page.until(lambda: page.one("#send").text == "发送")
    page.one("#language").click()
    assert page.one("#send").text == "Send"


def test_a_run_is_watched_as_it_goes_on(page, run_folder):
    page.one("#tab-run").click()
    page.until(lambda: len(page.find("#charts svg")) == 3)
    assert page.one("#run-name").text == "digits" and "step 30" in page.one("#run-state").text
    cells = [cell.text for cell in page.find("#answers td")]
    assert cells == ["cat.png", NASTY, "after 0", "after 20"] and page.browser.title == "paddle-xc2"
    with open(run_folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "loss": 0.1}\n')
    page.until(lambda: "step 40" in page.one("#run-state").text)


def test_it_fits_on_a_phone(page, pictures):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.ask("Which digit is it? " * 5, *pictures)
        page.wait_for_the_end()
        for tab in ("#tab-run", "#tab-chat"):
            page.one(tab).click()
            assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_error_puts_the_question_back(page):
    page.browser.execute_script("document.getElementById('question').value = 'What? '.repeat(1000)")
    page.one("#send").click()
    page.until(lambda: page.one("#problem").text)
    assert "the model takes 2,048 in all" in page.one("#problem").text
    assert page.one("#question").get_property("value").startswith("What? What?") and not page.find("#turns li")


def test_the_token_is_asked_for(browser, served):
    page = WebPage(SamplingSettings(), LIMITS, [], None)
    with running([served], LIMITS, key="secret", page=page) as server:
        browser.get(server.url)
        browser.execute_script("sessionStorage.clear()")
        browser.get(server.url)
        wait = WebDriverWait(browser, 30)
        token = browser.find_element(By.ID, "token")
        wait.until(lambda _: token.is_displayed())
        token.send_keys("secret" + Keys.ENTER)
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#model option"))
        assert not browser.find_element(By.ID, "tab-run").is_displayed()
