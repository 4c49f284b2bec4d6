"""A visit to a page with a TransportPlan."""

from __future__ import annotations

from tests.widgets.figures import Visit
from tutor.widgets import TransportPlan

X = [[-1.0, 0.5], [-0.5, -1.0], [0.2, 1.1]]
Y = [[1.0, -0.4], [0.7, 0.9], [1.4, 1.6], [0.1, -1.3]]


def plan() -> TransportPlan:
    return TransportPlan(X, Y)


class TransportVisit(Visit):
    """A page with the figure; leaving it checks that nothing was complained about or fetched."""

    def __enter__(self) -> TransportVisit:
        wanted, self.figure = self.figure, False
        super().__enter__()
        if wanted:
            self.page.wait_for_selector(".tutor-transport[data-theme]", timeout=30_000)
            self.page.locator(".tutor-map").first.scroll_into_view_if_needed()
            self.rest()
        return self

    def ask(self, what: str, given=None):
        """The value of an expression in which `root` is the figure and `given` an argument."""
        return self.page.evaluate(
            "(given) => { const root = document.querySelector('.tutor-transport'); "
            f"return {what}; }}",
            given,
        )

    def state(self) -> dict:
        return self.ask("root.__state()")

    def rest(self) -> dict:
        """The state once all curves are drawn."""
        self.page.wait_for_function(
            "() => !document.querySelector('.tutor-transport').__state().busy", timeout=30_000
        )
        self.settle()
        return self.state()

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def slider(self, name: str):
        return self.page.get_by_role("slider", name=name)

    def where(self, cloud: str, i: int) -> tuple[float, float]:
        """Where a point is drawn, in the window."""
        x, y = self.ask(f"root.__where('{cloud}', {i})")
        box = self.page.locator(".tutor-map").first.bounding_box()
        return box["x"] + x, box["y"] + y

    def card(self, title: str) -> dict[str, tuple[str, str]]:
        """Of the card with this title, each row's value and slope."""
        self.rest()
        box = self.page.locator(".tutor-card").filter(
            has=self.page.locator(".tutor-card-title", has_text=title)
        )
        rows = box.locator("dl > div")
        return {
            rows.nth(k).locator("dt").inner_text(): tuple(
                text.replace("\u2212", "-") for text in rows.nth(k).locator("dd").all_inner_texts()
            )
            for k in range(rows.count())
        }
