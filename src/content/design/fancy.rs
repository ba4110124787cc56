//! 화려한: night in the brand's hue, rays, a double frame and gold.

use super::details;
use crate::content::{
    brief::Brief,
    color::Rgb,
    scene::{Align, HEIGHT, Look, Scene, WIDTH},
    text::{Block, Face, Room, fit},
};

const MIDDLE: f32 = WIDTH as f32 / 2.0;

/// Above and below the text on the ribbon, together.
const RIBBON_PADDING: f32 = 40.0;

const GOLD: Rgb = Rgb([0xe6, 0xc1, 0x6a]);
const PALE_GOLD: Rgb = Rgb([0xfb, 0xec, 0xbc]);
const DEEP_GOLD: Rgb = Rgb([0xb9, 0x86, 0x2e]);
const IVORY: Rgb = Rgb([0xff, 0xfa, 0xec]);

/// Of light, out of the middle.
const RAYS: u8 = 28;

/// Where sparkles are, and how large: x, y, radius.
const SPARKLES: [[f32; 3]; 12] = [
    [118.0, 142.0, 20.0],
    [196.0, 96.0, 9.0],
    [92.0, 262.0, 8.0],
    [150.0, 380.0, 12.0],
    [104.0, 486.0, 17.0],
    [330.0, 86.0, 6.0],
    [1082.0, 142.0, 20.0],
    [1004.0, 96.0, 9.0],
    [1108.0, 262.0, 8.0],
    [1050.0, 380.0, 12.0],
    [1096.0, 486.0, 17.0],
    [870.0, 86.0, 6.0],
];

pub fn scene(brief: &Brief) -> Scene {
    let (_, chroma, hue) = brief.brand.to_lch();
    // Yellow at night is mud; brown is what one expects of it.
    let hue = if (70.0..125.0).contains(&hue) { 52.0 } else { hue };
    let night = |lightness, most: f64| Rgb::from_lch(lightness, chroma.min(most), hue);
    let (glow, dusk, dark) = (night(0.38, 0.13), night(0.25, 0.09), night(0.15, 0.05));
    let brightest = glow.under(GOLD, 0.09);

    let mut scene = Scene::default();
    backdrop(&mut scene, glow, dusk, dark);
    frame(&mut scene);
    for [x, y, r] in SPARKLES {
        sparkle(&mut scene, x, y, r, if r > 10.0 { GOLD } else { PALE_GOLD });
    }

    let center = |face, fill: Rgb| Look {
        face,
        fill: fill.readable_on(&[brightest, dark]),
        align: Align::Center,
        turned: None,
    };
    masthead(&mut scene, brief, center(Face::Serif, GOLD));

    let foot = details(brief, 780.0);
    let foot_top = 560.0 - foot.height();
    scene.block(&foot, [MIDDLE, foot_top], center(Face::Regular, PALE_GOLD));

    // Title and ribbon share what is left between the store's name and the foot.
    let highest = if brief.logo.is_some() { 164.0 } else { 152.0 };
    let lowest = foot_top - 26.0;
    let ribbon = brief.prize.as_ref().map(|p| {
        fit(
            p,
            Face::Heavy,
            &Room {
                width: 660.0,
                height: 88.0,
                sizes: 24.0..=40.0,
            },
        )
    });
    let below = ribbon
        .as_ref()
        .map_or(0.0, |block| block.height() + RIBBON_PADDING + 38.0);
    let room = Room {
        width: 860.0,
        height: lowest - highest - below,
        sizes: 34.0..=116.0,
    };
    let title = fit(&brief.title, Face::Serif, &room);
    let top = f32::midpoint(highest, lowest) - f32::midpoint(title.height(), below);
    scene.block(&title, [MIDDLE, top], center(Face::Serif, IVORY));
    if let Some(block) = ribbon {
        let middle = top + title.height() + below - f32::midpoint(block.height(), RIBBON_PADDING);
        draw_ribbon(&mut scene, &block, middle, dark);
    }
    scene
}

/// The store's logo and name in the middle, between two lines.
fn masthead(scene: &mut Scene, brief: &Brief, look: Look) {
    const Y: f32 = 108.0;
    let (height, widest, between) = (60.0, 220.0, 18.0);
    let tile = brief.logo.as_ref().map(|logo| Scene::tile_width(logo, height, widest));
    let tile = tile.map_or(0.0, |width| width + if brief.store.is_some() { between } else { 0.0 });
    let name = brief.store.as_ref();
    let name = name.map(|store| fit(store, look.face, &Room::line(560.0 - tile, 22.0..=32.0)));
    let width = tile + name.as_ref().map_or(0.0, |name| name.width(look.face));
    if width == 0.0 {
        return;
    }
    let left = MIDDLE - width / 2.0;
    if let Some(logo) = &brief.logo {
        scene.logo(logo, [left, Y], height, widest, Rgb::BLACK);
    }
    if let Some(name) = name {
        let middle = left + tile + (width - tile) / 2.0;
        scene.line(&name.lines.concat(), name.size, [middle, Y + 10.0], look);
    }
    for side in [-1.0, 1.0] {
        let near = MIDDLE + side * (width / 2.0 + 26.0);
        scene.shape(format_args!(
            "<path d='M{near} {Y}h{}' stroke='{GOLD}' stroke-width='1.5'/>",
            side * 70.0
        ));
        diamond(scene, near + side * 70.0, Y, 5.0);
    }
}

/// A glow in the middle, with rays out of it.
fn backdrop(scene: &mut Scene, glow: Rgb, dusk: Rgb, dark: Rgb) {
    scene.shape(format_args!(
        "<radialGradient id='night' gradientUnits='userSpaceOnUse' cx='600' cy='270' r='720'><stop offset='0' \
         stop-color='{glow}'/><stop offset='.55' stop-color='{dusk}'/><stop offset='1' stop-color='{dark}'/></radialGradient>\
         <rect width='{WIDTH}' height='{HEIGHT}' fill='url(#night)'/>"
    ));
    for ray in 0..RAYS {
        let edge = |part: f32| {
            let (sin, cos) = ((f32::from(ray) + part) / f32::from(RAYS) * std::f32::consts::TAU).sin_cos();
            format!("{} {}", MIDDLE + cos * 760.0, 270.0 + sin * 760.0)
        };
        scene.shape(format_args!(
            "<path d='M{MIDDLE} 270L{}L{}z' fill='{GOLD}' fill-opacity='.07'/>",
            edge(0.0),
            edge(0.45)
        ));
    }
}

/// Two lines of gold around the picture, with a fan in each corner.
fn frame(scene: &mut Scene) {
    scene.shape(format_args!(
        "<linearGradient id='gold' x1='0' y1='0' x2='1' y2='1'><stop offset='0' stop-color='{PALE_GOLD}'/><stop offset='.35' \
         stop-color='{GOLD}'/><stop offset='.65' stop-color='{DEEP_GOLD}'/><stop offset='1' stop-color='{PALE_GOLD}'/></linearGradient>\
         <rect x='22' y='22' width='1156' height='584' fill='none' stroke='url(#gold)' stroke-width='4'/>\
         <path d='M84 36H1116M84 592H1116M36 84V544M1164 84V544' fill='none' stroke='{GOLD}' stroke-width='1.5'/>"
    ));
    for (x, y, turn) in [(22, 22, 0), (1178, 22, 90), (1178, 606, 180), (22, 606, 270)] {
        scene.shape(format_args!(
            "<g transform='translate({x} {y}) rotate({turn})' fill='none' stroke='{GOLD}' stroke-width='2'>\
             <path d='M0 62A62 62 0 0 0 62 0M0 46A46 46 0 0 0 46 0M0 30A30 30 0 0 0 30 0'/>\
             <path d='M0 0L58 22M0 0L44 44M0 0L22 58' stroke-width='1.2'/></g>"
        ));
    }
}

/// The prize on a ribbon of gold, whose middle is at `y`.
fn draw_ribbon(scene: &mut Scene, block: &Block, y: f32, dark: Rgb) {
    let ink = dark.readable_on(&[GOLD, PALE_GOLD]);
    let half = (block.width(Face::Heavy) / 2.0 + 64.0).max(200.0);
    let height = block.height() + RIBBON_PADDING;
    let (top, bottom) = (y - height / 2.0, y + height / 2.0);
    let (left, right) = (MIDDLE - half, MIDDLE + half);
    for (x, side) in [(left, -1.0), (right, 1.0)] {
        // A tail folded behind each end.
        scene.shape(format_args!(
            "<path d='M{} {}h{}l{} {}l{} {}h{}z' fill='{DEEP_GOLD}'/>",
            x - side * 22.0,
            top + 12.0,
            side * 66.0,
            -side * 20.0,
            height / 2.0,
            side * 20.0,
            height / 2.0,
            -side * 66.0,
        ));
        scene.shape(format_args!(
            "<path d='M{x} {bottom}l{} 12v-12z' fill='{}'/>",
            -side * 22.0,
            DEEP_GOLD.under(Rgb::BLACK, 0.45)
        ));
    }
    scene.shape(format_args!(
        "<linearGradient id='ribbon' x1='0' y1='0' x2='1' y2='0'><stop offset='0' stop-color='{GOLD}'/><stop offset='.5' \
         stop-color='{PALE_GOLD}'/><stop offset='1' stop-color='{GOLD}'/></linearGradient>\
         <rect x='{left}' y='{top}' width='{}' height='{height}' fill='url(#ribbon)'/>\
         <path d='M{left} {}H{right}M{left} {}H{right}' stroke='{DEEP_GOLD}' stroke-width='1.2'/>",
        2.0 * half,
        top + 6.0,
        bottom - 6.0,
    ));
    let look = Look {
        face: Face::Heavy,
        fill: ink,
        align: Align::Center,
        turned: None,
    };
    scene.block(block, [MIDDLE, y - block.height() / 2.0], look);
}

fn sparkle(scene: &mut Scene, x: f32, y: f32, r: f32, fill: Rgb) {
    let waist = r * 0.16;
    scene.shape(format_args!(
        "<path transform='translate({x} {y})' d='M0 {a}Q{w} {v} {r} 0Q{w} {w} 0 {r}Q{v} {w} {a} 0Q{v} {v} 0 {a}z' fill='{fill}'/>",
        a = -r,
        w = waist,
        v = -waist,
    ));
}

fn diamond(scene: &mut Scene, x: f32, y: f32, r: f32) {
    scene.shape(format_args!(
        "<path d='M{} {y}l{r} {r}l{r} {}l{} {}z' fill='{GOLD}'/>",
        x - r,
        -r,
        -r,
        -r
    ));
}
