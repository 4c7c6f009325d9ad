"""The pictures of docs/webpage.md, taken from the page itself: python docs/scripts/webpage_pictures.py --run RUN --db DB

Needs the extras gmscavp[web] and playwright, and a chromium (--chromium). Writes docs/assets/webpage_*.png.
"""

import argparse
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from gmscavp.engine.cli import run_tool
from gmscavp.webapp.limits import Limits
from gmscavp.webapp.served import open_served
from gmscavp.webapp.server import serving

# name -> tab, what is clicked, where the answer stands, width, height, colours.
PICTURES = {
    'search': ('Search', 'Search', '#answers video', 1280, 900, 'light'),
    'generate': ('Generate', 'Generate', '#result video', 1280, 920, 'light'),
    'look': ('Look', 'Look', '#seen img', 1280, 1000, 'dark'),
    'phone': ('Search', 'Search', '#answers video', 390, 1500, 'dark'),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', type=Path, required=True)
    parser.add_argument('--generator', type=Path)
    parser.add_argument('--heat-map', type=Path)
    parser.add_argument('--db', required=True)
    parser.add_argument('--root', type=Path)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/assets')
    parser.add_argument('--only', nargs='+', choices=PICTURES, default=list(PICTURES))
    parser.add_argument('--chromium', default='/usr/bin/chromium')
    return parser.parse_args()


def take(page: Page, name: str, out: Path) -> None:
    """One picture, of few colours so that it stays small."""
    tab, button, answer, *_ = PICTURES[name]
    page.get_by_role('tab', name=tab).click()
    page.get_by_role('tabpanel').locator('visible=true').locator(
        '.gallery-item, .table button, table tr.tr-body'
    ).first.click()
    page.get_by_role('tabpanel').locator('visible=true').locator('.seen video').wait_for(timeout=120_000)
    page.get_by_role('button', name=button, exact=True).locator('visible=true').click()
    page.locator(answer).first.wait_for(timeout=240_000)
    page.evaluate('scrollTo(0, 0)')
    page.wait_for_timeout(2500)
    shot = Image.open(io.BytesIO(page.screenshot())).convert('RGB').quantize(256)
    shot.save(out / f'webpage_{name}.png', optimize=True)


def main() -> None:
    """Start the page and a browser, and take all pictures."""
    args = parse_args()
    served = open_served(args.run, args.generator, args.heat_map, args.db, args.root, 'cpu')
    options = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-proxy-server']
    with serving(served, Limits(), '127.0.0.1', 0) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=options)
        for name in args.only:
            _, _, _, width, height, scheme = PICTURES[name]
            context = browser.new_context(viewport=dict(width=width, height=height), color_scheme=scheme)
            page = context.new_page()
            page.goto(address)
            page.get_by_role('tab', name='Search').wait_for(timeout=120_000)
            take(page, name, args.out)
            context.close()
        browser.close()


if __name__ == '__main__':
    run_tool(main)
