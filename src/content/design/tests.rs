use resvg::tiny_skia::{Color, Pixmap};

use super::*;
use crate::content::scene::Align;
use crate::{
    content::{
        color::{LEGIBLE, Rgb},
        logo::Logo,
        scene::{HEIGHT, Line, WIDTH},
        text::ASCENT,
    },
    messages::ImageJob,
};

/// Pixels of the picture for one of the golden image: what 300 x 157 shows is what a person sees at a glance.
const SHRINK: u32 = 4;

fn brief(title: &str, prize: Option<&str>, brand_color: &str, store_info: &str) -> Brief {
    let job = ImageJob {
        job_id: uuid::Uuid::nil(),
        event_draft_id: uuid::Uuid::nil(),
        title: title.into(),
        prize: prize.map(str::to_owned),
        brand_color: Some(brand_color.into()),
        logo_url: Some("http://169.254.169.254/latest/meta-data".into()),
        store_info: serde_json::from_str(store_info).unwrap(),
    };
    Brief::new(&job).unwrap()
}

fn cafe(brand_color: &str) -> Brief {
    brief(
        "여름 신메뉴 출시 기념 리뷰 이벤트 ☀️",
        Some("아메리카노 기프티콘 100명"),
        brand_color,
        r#"{"name": "카페 모닝글로리", "address": "서울 마포구 양화로 45", "hours": "매일 08:00–22:00", "phone": "02-123-4567"}"#,
    )
}

fn long() -> Brief {
    brief(
        "🎉 우리 동네 치킨집 오픈 5주년 감사 대잔치! 친구와 함께 방문하고 사진을 올려 주시면 추첨을 통해 푸짐한 선물을 \
         드립니다 (자세한 내용은 매장에 문의해 주세요)",
        Some("1등 에어팟 프로 2세대 3명, 2등 아메리카노 기프티콘 100명, 3등 치킨 무료 쿠폰 500명"),
        "#FFE100",
        r#"{"store_name": "바삭한 형제 치킨 망원시장점", "주소": "서울특별시 마포구 포은로 112-3 1층 (망원동, 형제빌딩)",
            "hours": "평일 16:00–01:00, 주말 12:00–02:00 (매주 월요일 휴무)", "tel": "0507-1234-5678"}"#,
    )
}

/// With a logo that is as wide as many are: a mark and a bar, where its letters would be.
fn with_logo() -> Brief {
    let mut logo = Pixmap::new(360, 120).unwrap();
    for (x, width, color) in [(0, 120, [226, 60, 70]), (140, 220, [30, 42, 70])] {
        for y in 0..120 {
            for x in x..x + width {
                logo.pixels_mut()[y * 360 + x] = Color::from_rgba8(color[0], color[1], color[2], 255)
                    .premultiply()
                    .to_color_u8();
            }
        }
    }
    let mut brief = cafe("#1d4ed8");
    brief.logo = Some(Logo::read(&logo.encode_png().unwrap()).unwrap());
    brief
}

/// The names are those of the files in `tests/golden`.
fn briefs() -> [(&'static str, Brief); 5] {
    [
        ("logo", with_logo()),
        ("cafe", cafe("#00704A")),
        ("long", long()),
        (
            "english",
            brief(
                "Grand Opening Week",
                Some("Win a MacBook Air"),
                "#ff5a5f",
                r#""Harbor Books""#,
            ),
        ),
        ("bare", brief("봄맞이 세일", None, "no colour", "null")),
    ]
}

fn shrink(pixels: &Pixmap) -> Pixmap {
    let mut out = Pixmap::new(WIDTH / SHRINK, HEIGHT / SHRINK).unwrap();
    let area = SHRINK * SHRINK;
    for y in 0..out.height() {
        for x in 0..out.width() {
            let mut sum = [0; 3];
            for i in 0..area {
                let pixel = pixels.pixel(x * SHRINK + i % SHRINK, y * SHRINK + i / SHRINK).unwrap();
                for (s, c) in sum.iter_mut().zip([pixel.red(), pixel.green(), pixel.blue()]) {
                    *s += u32::from(c);
                }
            }
            let [r, g, b] = sum.map(|s| (s / area) as u8);
            let at = (y * out.width() + x) as usize;
            out.pixels_mut()[at] = Color::from_rgba8(r, g, b, 255).premultiply().to_color_u8();
        }
    }
    out
}

/// `UPDATE_GOLDEN=1 cargo test golden` writes the files anew: then look at them, in full size in `target/golden`.
#[test]
fn pictures_look_like_the_golden_ones() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let (directory, full_size) = (root.join("tests/golden"), root.join("target/golden"));
    for (name, brief) in briefs() {
        for style in ImageStyle::ALL {
            let seen = shrink(&scene(&brief, style).pixels(true).unwrap());
            let path = directory.join(format!("{name}-{}.png", style.slug()));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                seen.save_png(&path).unwrap();
                std::fs::create_dir_all(&full_size).unwrap();
                let png = scene(&brief, style).png().unwrap();
                std::fs::write(full_size.join(path.file_name().unwrap()), png).unwrap();
            }
            let golden = Pixmap::load_png(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let differences = || golden.data().iter().zip(seen.data()).map(|(a, b)| a.abs_diff(*b));
            let mean = differences().map(f64::from).sum::<f64>() / golden.data().len() as f64;
            let far = differences().filter(|d| *d > 40).count();
            // Another version of the rasteriser may move an edge by a part of a pixel.
            assert!(
                mean < 1.0 && far < 200,
                "{} differs: {mean:.2} a channel, {far} far off",
                path.display()
            );
        }
    }
}

/// Each text against each pixel under it, so whatever a design paints there.
#[test]
fn every_text_can_be_read_whatever_the_brand() {
    let brands = [
        "#ffffff", "#000000", "#808080", "#777777", "#ff0000", "#00ff00", "#0000ff", "#ffff00", "#00ffff", "#ff00ff",
        "#767676", "#e60012", "#00704a", "#f4a7b9", "#5b2c83", "#b5651d", "#03c75a", "#ffcd00",
    ];
    for brief in brands.into_iter().map(cafe).chain(briefs().map(|(_, b)| b)) {
        for style in ImageStyle::ALL {
            let scene = scene(&brief, style);
            let under = scene.pixels(false).unwrap();
            assert!(!scene.lines().is_empty());
            for line in scene.lines() {
                let (worst, ground) = lowest_contrast(line, &under);
                let (text, fill, brand) = (&line.text, line.look.fill, brief.brand);
                assert!(
                    worst >= LEGIBLE,
                    "{style:?} of {brand}: {text:?} in {fill} on {ground} has {worst:.2}"
                );
            }
        }
    }
}

/// Of the line's colour with the pixels of the box that its letters stand in; the whole box is inside the
/// picture.
fn lowest_contrast(line: &Line, under: &Pixmap) -> (f64, Rgb) {
    let [x, y] = line.at;
    let width = line.look.face.width(&line.text, line.size);
    let left = match line.look.align {
        Align::Left => x,
        Align::Center => x - width / 2.0,
    };
    let (degrees, [cx, cy]) = line.look.turned.unwrap_or((0.0, [0.0, 0.0]));
    let (sin, cos) = degrees.to_radians().sin_cos();
    let mut worst = (f64::INFINITY, Rgb::BLACK);
    for step_y in 0..=20_u8 {
        for step_x in 0..=200_u8 {
            let px = left + width * f32::from(step_x) / 200.0 - cx;
            let py = y - line.size * ASCENT * f32::from(step_y) / 20.0 - cy;
            let (px, py) = (cx + px * cos - py * sin, cy + px * sin + py * cos);
            assert!(px >= 0.0 && py >= 0.0, "{:?} begins outside", line.text);
            let pixel = under
                .pixel(px as u32, py as u32)
                .unwrap_or_else(|| panic!("{:?} ends outside", line.text));
            let ground = Rgb([pixel.red(), pixel.green(), pixel.blue()]);
            let contrast = line.look.fill.contrast(ground);
            if contrast < worst.0 {
                worst = (contrast, ground);
            }
        }
    }
    worst
}

#[test]
fn a_logo_covers_no_text() {
    let brief = with_logo();
    for style in ImageStyle::ALL {
        let scene = scene(&brief, style);
        let [left, top, width, height] = scene.logo_box().expect("the logo is drawn");
        assert!(left >= 0.0 && top >= 0.0 && width > 60.0 && height > 30.0, "{style:?}");
        let plain = Brief {
            logo: None,
            ..brief.clone()
        };
        let drawn = scene.pixels(true).unwrap();
        let undrawn = super::scene(&plain, style).pixels(true).unwrap();
        let at = |pixels: &Pixmap| {
            pixels
                .pixel((left + width * 0.1) as u32, (top + height * 0.5) as u32)
                .unwrap()
        };
        assert_ne!(at(&drawn), at(&undrawn), "{style:?}: the logo is seen");
        for line in scene.lines() {
            let width_of_line = line.look.face.width(&line.text, line.size);
            let from = match line.look.align {
                Align::Left => line.at[0],
                Align::Center => line.at[0] - width_of_line / 2.0,
            };
            let beside = from + width_of_line < left || from > left + width;
            let apart = line.at[1] < top || line.at[1] - line.size * ASCENT > top + height;
            assert!(beside || apart, "{style:?}: {:?} is under the logo", line.text);
        }
    }
}

#[test]
fn markup_in_a_title_is_text() {
    let brief = brief(
        "</text><image href='http://10.0.0.1/'/> & <b>굵게</b>",
        Some("]]>"),
        "#336699",
        "{}",
    );
    for style in ImageStyle::ALL {
        let scene = scene(&brief, style);
        assert!(!scene.svg(true).contains("<image"));
        scene.png().unwrap();
    }
}

#[test]
fn a_title_of_emoji_alone_is_refused() {
    let job = ImageJob {
        job_id: uuid::Uuid::nil(),
        event_draft_id: uuid::Uuid::nil(),
        title: "🎉🎉".into(),
        prize: None,
        brand_color: None,
        logo_url: None,
        store_info: None,
    };
    assert!(Brief::new(&job).is_err());
}
