//! Colours: what an owner wrote, what can be read on what, and relatives of a colour.
//!
//! Relatives are made in Oklab (Ottosson 2020), where a step of lightness looks the same in every hue.

/// A colour in sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgb(pub [u8; 3]);

/// The lowest contrast at which body text counts as legible (WCAG 2.2, level AA).
pub const LEGIBLE: f64 = 4.5;

/// What [`Rgb::readable_on`] aims at: a little more, for there is none left over where shades blend. Black or
/// white has at least 4.58 on any one colour.
const AIM: f64 = 4.8;

impl Rgb {
    /// Pure white.
    pub const WHITE: Self = Self([255; 3]);
    /// Pure black.
    pub const BLACK: Self = Self([0; 3]);

    /// Reads `#rrggbb` or `#rgb`, with or without the number sign, spaces around it ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.trim();
        let hex = hex.strip_prefix('#').unwrap_or(hex);
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let value = u32::from_str_radix(hex, 16).ok()?;
        match hex.len() {
            3 => Some(Self([8, 4, 0].map(|shift| (value >> shift & 0xf) as u8 * 0x11))),
            6 => Some(Self([16, 8, 0].map(|shift| (value >> shift) as u8))),
            _ => None,
        }
    }

    /// From lightness (0 to 1), chroma (0 to about 0.3) and hue (degrees) of Oklab. A colour that no screen
    /// shows loses chroma until one does.
    pub fn from_lch(lightness: f64, chroma: f64, hue: f64) -> Self {
        let (sin, cos) = hue.to_radians().sin_cos();
        let mut chroma = chroma;
        loop {
            let rgb = oklab_to_linear([lightness, chroma * cos, chroma * sin]);
            if chroma < 0.002 || rgb.iter().all(|c| (-0.0005..=1.0005).contains(c)) {
                return Self(rgb.map(|c| (encode(c.clamp(0.0, 1.0)) * 255.0).round() as u8));
            }
            chroma -= 0.002;
        }
    }

    /// Lightness, chroma and hue in Oklab.
    pub fn to_lch(self) -> (f64, f64, f64) {
        let [lightness, a, b] = linear_to_oklab(self.0.map(|c| decode(f64::from(c) / 255.0)));
        (lightness, a.hypot(b), b.atan2(a).to_degrees())
    }

    /// This colour with `over` laid on it at `opacity` (0 to 1), as the renderer blends.
    #[must_use]
    pub fn under(self, over: Self, opacity: f64) -> Self {
        let mut out = self.0;
        for (c, o) in out.iter_mut().zip(over.0) {
            *c = f64::from(*c).mul_add(1.0 - opacity, f64::from(o) * opacity).round() as u8;
        }
        Self(out)
    }

    /// The contrast ratio of WCAG: 1 (equal) to 21 (black and white).
    pub fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// This colour, or the nearest relative of it that can be read on all of `grounds`.
    #[must_use]
    pub fn readable_on(self, grounds: &[Self]) -> Self {
        self.apart_from(grounds, AIM)
    }

    /// This colour, or the nearest lighter or darker relative of it that has this contrast to all of
    /// `grounds`. Where these are so far apart that none has, the better of black and white.
    #[must_use]
    pub fn apart_from(self, grounds: &[Self], contrast: f64) -> Self {
        let worst = |ink: Self| grounds.iter().map(|g| ink.contrast(*g)).fold(f64::INFINITY, f64::min);
        if worst(self) >= contrast {
            return self;
        }
        let (lightness, chroma, hue) = self.to_lch();
        let relatives = (1..=50).flat_map(|step| {
            let away = f64::from(step) * 0.02;
            [lightness - away, lightness + away]
        });
        relatives
            .filter(|l| (0.0..=1.0).contains(l))
            .map(|l| Self::from_lch(l, chroma, hue))
            .find(|ink| worst(*ink) >= contrast)
            .unwrap_or_else(|| {
                if worst(Self::WHITE) >= worst(Self::BLACK) {
                    Self::WHITE
                } else {
                    Self::BLACK
                }
            })
    }

    /// Whether this colour shines brighter.
    pub fn is_lighter_than(self, other: Self) -> bool {
        self.luminance() > other.luminance()
    }

    /// WCAG's relative luminance.
    fn luminance(self) -> f64 {
        let [r, g, b] = self.0.map(|c| decode(f64::from(c) / 255.0));
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }
}

impl std::fmt::Display for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [r, g, b] = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

/// sRGB to linear light.
fn decode(c: f64) -> f64 {
    if c <= 0.04045 {
        c / 12.92
    } else {
        ((c + 0.055) / 1.055).powf(2.4)
    }
}

/// Linear light to sRGB.
fn encode(c: f64) -> f64 {
    if c <= 0.003_130_8 {
        c * 12.92
    } else {
        1.055 * c.powf(1.0 / 2.4) - 0.055
    }
}

#[expect(clippy::many_single_char_names, reason = "the paper's names")]
fn linear_to_oklab([r, g, b]: [f64; 3]) -> [f64; 3] {
    let l = (0.412_221_470_8 * r + 0.536_332_536_3 * g + 0.051_445_992_9 * b).cbrt();
    let m = (0.211_903_498_2 * r + 0.680_699_545_1 * g + 0.107_396_956_6 * b).cbrt();
    let s = (0.088_302_461_9 * r + 0.281_718_837_6 * g + 0.629_978_700_5 * b).cbrt();
    [
        0.210_454_255_3 * l + 0.793_617_785_0 * m - 0.004_072_046_8 * s,
        1.977_998_495_1 * l - 2.428_592_205_0 * m + 0.450_593_709_9 * s,
        0.025_904_037_1 * l + 0.782_771_766_2 * m - 0.808_675_766_0 * s,
    ]
}

#[expect(clippy::many_single_char_names, reason = "the paper's names")]
fn oklab_to_linear([lightness, a, b]: [f64; 3]) -> [f64; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brand_colour_is_read_in_its_usual_spellings() {
        for text in ["#ff8800", "FF8800", " #f80 ", "f80"] {
            assert_eq!(Rgb::parse(text), Some(Rgb([255, 136, 0])), "{text}");
        }
        for text in ["", "#", "red", "#12345", "#1234567", "+12345", "#ff88zz", "빨강"] {
            assert_eq!(Rgb::parse(text), None, "{text}");
        }
    }

    #[test]
    fn oklab_and_back_is_the_same_colour() {
        for value in (0..=0xff_ffff_u32).step_by(4_099) {
            let rgb = Rgb([16, 8, 0].map(|shift| (value >> shift) as u8));
            let (l, c, h) = rgb.to_lch();
            let back = Rgb::from_lch(l, c, h);
            for (a, b) in rgb.0.into_iter().zip(back.0) {
                assert!(a.abs_diff(b) <= 2, "{rgb} became {back}");
            }
        }
    }

    #[test]
    fn ink_can_be_read_on_every_ground() {
        let colours = || {
            (0..=0xff_ffff_u32)
                .step_by(65_521)
                .map(|v| Rgb([16, 8, 0].map(|shift| (v >> shift) as u8)))
        };
        for ground in colours() {
            for ink in colours().step_by(7) {
                let ink = ink.readable_on(&[ground]);
                assert!(ink.contrast(ground) >= LEGIBLE, "{ink} on {ground}");
            }
        }
    }
}
