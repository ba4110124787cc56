//! 트렌디: a loud pair of colours, a title as large as it gets, a sticker for the prize.

use super::{details, prize_label};
use crate::content::{
    brief::Brief,
    color::Rgb,
    scene::{Align, HEIGHT, Look, Scene, WIDTH},
    text::{Face, Room, fit},
};

const LEFT: f32 = 64.0;
/// The sticker's centre and radius.
const STICKER: [f32; 3] = [962.0, 300.0, 196.0];
/// Around the sticker's edge.
const WAVES: u8 = 20;
/// Degrees by which the sticker is turned.
const TILT: f32 = -8.0;

/// The colours, all relatives of the brand's.
struct Palette {
    ground: Rgb,
    /// Of the text on the ground.
    ink: Rgb,
    /// Nearly black: outlines, shadows, and the text on `pop`.
    dark: Rgb,
    pop: Rgb,
    candy: Rgb,
}

impl Palette {
    fn new(brand: Rgb) -> Self {
        let (lightness, chroma, hue) = brand.to_lch();
        // A grey brand has no hue to answer: it stays grey, beside a lemon.
        let (pop_hue, candy_hue) = if chroma < 0.03 {
            (112.0, 350.0)
        } else {
            (hue + 165.0, hue + 65.0)
        };
        let ground = Rgb::from_lch(lightness.clamp(0.55, 0.86), chroma.min(0.2), hue);
        let dark = Rgb::from_lch(0.17, chroma.min(0.04), hue);
        Self {
            ground,
            ink: dark.readable_on(&[ground]),
            dark,
            pop: Rgb::from_lch(0.9, 0.17, pop_hue),
            candy: Rgb::from_lch(0.76, 0.15, candy_hue),
        }
    }
}

pub fn scene(brief: &Brief) -> Scene {
    let p = Palette::new(brief.brand);
    let mut scene = Scene::default();
    shapes(&mut scene, &p);

    let left = |face, fill| Look {
        face,
        fill,
        align: Align::Left,
        turned: None,
    };
    let ink = left(Face::Heavy, p.ink);
    let pill = match &brief.logo {
        Some(logo) => LEFT + scene.logo(logo, [LEFT, 86.0], 64.0, 220.0, p.ground) + 14.0,
        None => LEFT,
    };
    if let Some(store) = &brief.store {
        let name = fit(store, Face::Heavy, &Room::line(624.0 - pill, 22.0..=30.0));
        let width = name.width(Face::Heavy) + 52.0;
        scene.shape(format_args!(
            "<rect x='{pill}' y='58' width='{width}' height='56' rx='28' fill='{}'/>",
            p.dark
        ));
        let on_pill = left(Face::Heavy, p.pop.readable_on(&[p.dark]));
        scene.line(
            &name.lines.concat(),
            name.size,
            [pill + 26.0, 86.0 + name.size * 0.35],
            on_pill,
        );
    }

    let foot = details(brief, 640.0);
    let foot_top = 574.0 - foot.height();
    scene.block(&foot, [LEFT, foot_top], left(Face::Regular, p.ink));

    let (highest, lowest) = (142.0, foot_top - 32.0);
    let title = fit(
        &brief.title,
        Face::Heavy,
        &Room {
            width: 650.0,
            height: lowest - highest,
            sizes: 38.0..=128.0,
        },
    );
    scene.block(
        &title,
        [LEFT, f32::midpoint(highest, lowest) - title.height() / 2.0],
        ink,
    );

    sticker(&mut scene, brief, &p);
    scene
}

fn shapes(scene: &mut Scene, p: &Palette) {
    let Palette {
        ground,
        dark,
        pop,
        candy,
        ..
    } = p;
    scene.shape(format_args!(
        "<rect width='{WIDTH}' height='{HEIGHT}' fill='{ground}'/>"
    ));
    // Right: a quarter of candy, a bar of ink, a half moon.
    scene.shape(format_args!(
        "<path d='M1200 0V628H760A440 440 0 0 1 1200 188z' fill='{candy}'/>"
    ));
    scene.shape(format_args!("<path d='M1032 0A84 84 0 0 0 1200 0z' fill='{dark}'/>"));
    scene.shape(format_args!(
        "<circle cx='1136' cy='566' r='112' fill='none' stroke='{dark}' stroke-width='26'/>"
    ));
    for row in 0..5_u8 {
        for column in 0..7_u8 {
            let (x, y) = (742.0 + f32::from(column) * 22.0, 40.0 + f32::from(row) * 22.0);
            scene.shape(format_args!("<circle cx='{x}' cy='{y}' r='4' fill='{dark}'/>"));
        }
    }
    // A squiggle below the sticker.
    scene.shape(format_args!(
        "<path d='M742 580q22 -40 44 0t44 0t44 0t44 0' fill='none' stroke='{pop}' stroke-width='13' stroke-linecap='round'/>"
    ));
}

/// A round sticker with a wavy edge and its shadow.
fn sticker(scene: &mut Scene, brief: &Brief, p: &Palette) {
    let [x, y, r] = STICKER;
    let points = (0..WAVES * 8).map(|step| {
        let angle = f32::from(step) / f32::from(WAVES * 8) * std::f32::consts::TAU;
        let radius = 9.0f32.mul_add((angle * f32::from(WAVES)).cos(), r);
        format!("{:.1} {:.1}", radius * angle.cos(), radius * angle.sin())
    });
    let edge = format!("M{}", points.collect::<Vec<_>>().join("L"));
    scene.shape(format_args!(
        "<path transform='translate({} {})' d='{edge}z' fill='{}'/>",
        x + 12.0,
        y + 14.0,
        p.dark
    ));
    scene.shape(format_args!(
        "<path transform='translate({x} {y})' d='{edge}z' fill='{}' stroke='{}' stroke-width='5'/>",
        p.pop, p.dark
    ));
    let fill = p.dark.readable_on(&[p.pop]);
    let look = Look {
        face: Face::Heavy,
        fill,
        align: Align::Center,
        turned: Some((TILT, [x, y])),
    };
    let (text, label) = match &brief.prize {
        Some(prize) => (prize.as_str(), prize_label(brief)),
        None => ("EVENT", ""),
    };
    let block = fit(
        text,
        Face::Heavy,
        &Room {
            width: 286.0,
            height: 230.0,
            sizes: 25.0..=64.0,
        },
    );
    let below = if label.is_empty() { 0.0 } else { 16.0 };
    let top = y + below - block.height() / 2.0;
    scene.block(&block, [x, top], look);
    if !label.is_empty() {
        scene.line(label, 25.0, [x, top - 22.0], look);
    }
}
