//! Text: the bundled faces, what of a text can be drawn, and breaking it into lines that fit.

use std::{ops::RangeInclusive, sync::LazyLock};

use skrifa::{
    FontRef, MetadataProvider as _,
    instance::{LocationRef, Size},
    metrics::GlyphMetrics,
};
use unicode_linebreak::{BreakOpportunity, linebreaks};
use unicode_normalization::UnicodeNormalization as _;

/// A bundled face. All three have every modern Hangul syllable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Nanum Square, for details.
    Regular,
    /// Nanum Square `ExtraBold`, for titles.
    Heavy,
    /// Nanum Myeongjo `ExtraBold`, with serifs.
    Serif,
}

impl Face {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Regular, Self::Heavy, Self::Serif];

    /// The font file.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::Regular => include_bytes!("../../assets/fonts/NanumSquareR.ttf"),
            Self::Heavy => include_bytes!("../../assets/fonts/NanumSquareEB.ttf"),
            Self::Serif => include_bytes!("../../assets/fonts/NanumMyeongjoExtraBold.ttf"),
        }
    }

    fn font(self) -> &'static FontRef<'static> {
        static FONTS: LazyLock<[FontRef<'static>; 3]> =
            LazyLock::new(|| Face::ALL.map(|f| FontRef::new(f.bytes()).expect("the bundled fonts are fonts")));
        &FONTS[self as usize]
    }

    fn has(self, c: char) -> bool {
        self.font().charmap().map(c).is_some()
    }

    /// The width of a text on one line, in pixels; kerning, which makes it a little narrower, is left out. A
    /// character that the face lacks is drawn, and so measured, in one that has it.
    pub fn width(self, text: &str, size: f32) -> f32 {
        let advance = |face: Self, c: char| {
            let font = face.font();
            let metrics: GlyphMetrics<'_> = font.glyph_metrics(Size::new(size), LocationRef::default());
            metrics.advance_width(font.charmap().map(c)?)
        };
        text.chars()
            .filter_map(|c| advance(self, c).or_else(|| Self::ALL.into_iter().find_map(|f| advance(f, c))))
            .sum()
    }
}

/// The longest text that is laid out, in characters: what no design could show is not measured either.
const LONGEST: usize = 300;

/// What of `text` can be drawn, on one line: composed (macOS sends Hangul in parts), spaces joined, and
/// without emoji, control and direction characters, or anything else that no bundled face has; of a letter
/// with an accent that none has, the letter stays.
pub fn clean(text: &str) -> String {
    let drawable = |c: char| match c {
        // What a face may have, and nobody sees: hyphens and joiners, directions, fillers of Hangul, variants, tags;
        // and what is of private use, by which each font means something else.
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{ffff}'
        | '\u{e000}'..='\u{f8ff}'
        | '\u{e0000}'.. => false,
        // Symbols that phones show as emoji, whatever the font has.
        '\u{2600}'..='\u{27bf}' => matches!(c, '★' | '☆' | '♥' | '♡' | '♠' | '♣' | '♪' | '♬' | '①'..='⑮'),
        _ => Face::ALL.into_iter().any(|f| f.has(c)),
    };
    let mut out = String::new();
    for c in text.nfc().take(4 * LONGEST) {
        if c.is_whitespace() || c.is_control() {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        } else if drawable(c) {
            out.push(c);
        } else {
            // What it is made of: an e without its accent is better than no e.
            out.extend(c.nfkd().filter(|part| *part != c && drawable(*part)));
        }
    }
    let end = out.char_indices().nth(LONGEST).map_or(out.len(), |(at, _)| at);
    out.truncate(end);
    out.truncate(out.trim_end().len());
    out
}

/// A text broken into lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// In pixels, of the em square.
    pub size: f32,
    /// Without the spaces at which they were broken.
    pub lines: Vec<String>,
}

/// Between the baselines of a block, in sizes.
pub const LEADING: f32 = 1.22;
/// From the top of a line's letters to its baseline, in sizes: Hangul stands higher than Latin capitals.
pub const ASCENT: f32 = 0.84;
/// From the baseline to the bottom of Hangul, in sizes.
const DESCENT: f32 = 0.1;

impl Block {
    /// From the top of the first line's letters to the bottom of the last one's, in pixels.
    pub fn height(&self) -> f32 {
        let gaps = self.lines.len().saturating_sub(1) as f32;
        self.size * (ASCENT + gaps * LEADING + DESCENT)
    }

    /// Of the widest line, in pixels.
    pub fn width(&self, face: Face) -> f32 {
        self.lines.iter().map(|l| face.width(l, self.size)).fold(0.0, f32::max)
    }
}

/// The room that a text may take.
#[derive(Debug, Clone)]
pub struct Room {
    /// In pixels.
    pub width: f32,
    /// In pixels, as [`Block::height`] counts; one line is always given.
    pub height: f32,
    /// The largest size that fits is taken; below the smallest the text is cut.
    pub sizes: RangeInclusive<f32>,
}

impl Room {
    /// Of exactly one line.
    pub fn line(width: f32, sizes: RangeInclusive<f32>) -> Self {
        Self {
            width,
            height: 0.0,
            sizes,
        }
    }

    fn lines(&self, size: f32) -> usize {
        1 + ((self.height / size - ASCENT - DESCENT) / LEADING).max(0.0) as usize
    }
}

/// Breaks `text` into lines that fit into `room`: as large as possible, between words if that costs no more
/// than a quarter of the size, else within them, and cut with an ellipsis if there is no other way. The lines
/// come out about equally long.
pub fn fit(text: &str, face: Face, room: &Room) -> Block {
    let (smallest, largest) = (*room.sizes.start(), *room.sizes.end());
    let steps = || std::iter::successors(Some(largest), |s| (*s > smallest).then(|| (s * 0.96).max(smallest)));
    let whole = |breaks: Breaks| {
        steps().find_map(|size| {
            let lines = wrap(text, face, size, room.width, breaks)?;
            (lines.len() <= room.lines(size)).then_some((size, breaks, lines))
        })
    };
    let found = match (whole(Breaks::Words), whole(Breaks::Anywhere)) {
        (Some(words), Some(anywhere)) if words.0 >= anywhere.0 * 0.75 => Some(words),
        (words, anywhere) => anywhere.or(words),
    };
    let Some((size, breaks, mut lines)) = found else {
        return Block {
            size: smallest,
            lines: cut(text, face, smallest, room),
        };
    };
    // The narrowest width that needs no more lines makes them even.
    let (mut narrow, mut wide) = (room.width / 3.0, room.width);
    for _ in 0..8 {
        let middle = f32::midpoint(narrow, wide);
        match wrap(text, face, size, middle, breaks) {
            Some(even) if even.len() <= lines.len() => (lines, wide) = (even, middle),
            _ => narrow = middle,
        }
    }
    Block { size, lines }
}

/// Where a line may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaks {
    /// After a space or a hyphen: how Korean is set where there is room.
    Words,
    /// Where Unicode's rules allow it, so also between two Hangul syllables; a piece that is too long even
    /// so is broken anywhere.
    Anywhere,
}

/// Greedy: as much on each line as fits into `width`. `None`: a word alone does not fit.
fn wrap(text: &str, face: Face, size: f32, width: f32, breaks: Breaks) -> Option<Vec<String>> {
    let fits = |line: &str| face.width(line.trim_end(), size) <= width;
    let mut lines = Vec::new();
    let mut line = String::new();
    for piece in pieces(text, breaks) {
        let longer = format!("{line}{piece}");
        if line.is_empty() || fits(&longer) {
            line = longer;
        } else {
            lines.push(std::mem::replace(&mut line, piece.to_owned()));
        }
        while !fits(&line) {
            if breaks == Breaks::Words {
                return None;
            }
            let rest = line.split_off(longest_prefix(&line, face, size, width));
            lines.push(std::mem::replace(&mut line, rest));
        }
    }
    lines.push(line);
    Some(
        lines
            .iter()
            .map(|l| l.trim_end().to_owned())
            .filter(|l| !l.is_empty())
            .collect(),
    )
}

/// The text in pieces, between which a line may end.
fn pieces(text: &str, breaks: Breaks) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    for (at, opportunity) in linebreaks(text) {
        let before = text[..at].chars().next_back();
        let allowed = opportunity == BreakOpportunity::Mandatory
            || breaks == Breaks::Anywhere
            || before.is_some_and(|c| c == ' ' || c == '-' || c == '/');
        if allowed {
            out.push(&text[start..at]);
            start = at;
        }
    }
    out
}

/// The length in bytes of what fits into `width`, at least one character.
fn longest_prefix(text: &str, face: Face, size: f32, width: f32) -> usize {
    let ends = text.char_indices().skip(1).map(|(at, _)| at);
    ends.take_while(|at| face.width(&text[..*at], size) <= width)
        .last()
        .unwrap_or_else(|| text.chars().next().map_or(0, char::len_utf8))
}

/// The first lines, the last of them with an ellipsis.
fn cut(text: &str, face: Face, size: f32, room: &Room) -> Vec<String> {
    let mut lines = wrap(text, face, size, room.width, Breaks::Anywhere).unwrap_or_default();
    lines.truncate(room.lines(size));
    if let Some(last) = lines.last_mut() {
        let end = longest_prefix(last, face, size, room.width - face.width("…", size));
        if face.width(last, size) + face.width("…", size) > room.width {
            last.truncate(end);
        }
        last.truncate(last.trim_end().len());
        last.push('…');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(width: f32, lines: usize) -> Room {
        Room {
            width,
            height: (lines as f32) * 40.0,
            sizes: 20.0..=40.0,
        }
    }

    #[test]
    fn emoji_and_what_no_face_has_are_left_out() {
        assert_eq!(clean("🎉 여름 🍉  대축제!!\n☀️ 2026 👨‍👩‍👧"), "여름 대축제!! 2026");
        assert_eq!(clean("\u{202e}evil\u{200b} ᄒ\u{1161}\u{11ab}글"), "evil 한글");
        assert_eq!(clean("🎁🎁"), "");
        let unseen = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{180e}\u{200b}\u{200d}\u{202e}\u{2066}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fffd}\u{e000}\u{e0041}\u{10ffff}";
        assert_eq!(clean(unseen), "");
        assert_eq!(clean(&format!("여\0름\u{7f}{unseen}\t\r\n끝")), "여 름 끝");
        assert_eq!(
            clean(&format!("e{}", "\u{301}".repeat(200_000))),
            "e",
            "accents without end"
        );
        assert_eq!(clean("Café Ångström ｎ"), "Cafe Angstrom ｎ");
        assert_eq!(clean(&"가".repeat(5_000)).chars().count(), LONGEST);
    }

    #[test]
    fn lines_end_between_words_where_there_is_room() {
        let block = fit("신메뉴 출시 기념 리뷰 이벤트", Face::Heavy, &room(300.0, 2));
        assert_eq!(block.lines, ["신메뉴 출시 기념", "리뷰 이벤트"]);
    }

    #[test]
    fn a_long_word_is_broken_and_a_long_text_is_cut() {
        let block = fit(&"가나다라마바사아자차카타파하".repeat(2), Face::Heavy, &room(300.0, 3));
        assert!(
            block.height() <= 120.0 && !block.lines.concat().contains('…'),
            "{block:?}"
        );
        let block = fit(&"Supercalifragilistic ".repeat(20), Face::Serif, &room(300.0, 2));
        assert!(block.height() <= 80.0);
        assert!(block.lines.last().is_some_and(|l| l.ends_with('…')), "{block:?}");
    }

    #[test]
    fn no_line_is_wider_than_its_room() {
        for text in [
            "가",
            "event",
            "아주 긴 제목이 들어오면 어떻게 되는지 보는 시험입니다 Test 1234567890",
            "ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ",
        ] {
            for width in [60.0, 150.0, 400.0] {
                for face in Face::ALL {
                    let block = fit(text, face, &room(width, 3));
                    for line in &block.lines {
                        assert!(
                            face.width(line, block.size) <= width + 0.5,
                            "{line} in {width}: {block:?}"
                        );
                    }
                }
            }
        }
    }
}
