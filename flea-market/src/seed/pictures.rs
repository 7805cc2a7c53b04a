//! Pictures drawn in characters, one for each category, made into PNG files (RFC 2083).

/// Categories in the order of their pictures' numbers.
const CATEGORIES: [&str; 9] =
    ["bicycles", "tools", "furniture", "kitchen", "cameras", "sports", "music", "electronics", "books"];

/// How many pixels a character becomes in each direction.
const SCALE: usize = 4;
/// Characters in a row, and rows.
const SIDE: usize = 16;

/// The number that the picture of a category has at the media service.
pub(super) fn number_of(category: &str) -> Option<i64> {
    let position = CATEGORIES.iter().position(|known| *known == category)?;
    i64::try_from(position).ok()?.checked_add(1)
}

/// The files, in the order of their numbers.
pub(super) fn all() -> impl Iterator<Item = Vec<u8>> {
    DRAWINGS.iter().map(png)
}

/// An indexed picture of 64 by 64 pixels, not compressed: small enough, and nothing to get wrong.
fn png(drawing: &[&str; SIDE]) -> Vec<u8> {
    let side = u32::try_from(SIDE * SCALE).unwrap_or(64);
    let mut head = Vec::new();
    head.extend(side.to_be_bytes());
    head.extend(side.to_be_bytes());
    // Eight bits a pixel, palette, and the only values there are for the other three.
    head.extend([8, 3, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, *b"IHDR", &head);
    chunk(&mut file, *b"PLTE", &PALETTE.concat());
    chunk(&mut file, *b"IDAT", &stored(&pixels(drawing)));
    chunk(&mut file, *b"IEND", &[]);
    file
}

/// Rows of palette indices, each behind the number of its filter: none.
fn pixels(drawing: &[&str; SIDE]) -> Vec<u8> {
    let mut rows = Vec::new();
    for line in drawing {
        let mut row = vec![0];
        for c in line.chars() {
            let index = INK.iter().position(|ink| *ink == c).unwrap_or(0);
            row.extend([u8::try_from(index).unwrap_or(0); SCALE]);
        }
        for _ in 0..SCALE {
            rows.extend_from_slice(&row);
        }
    }
    rows
}

fn chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    file.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    let checked = [&kind[..], data].concat();
    file.extend_from_slice(&checked);
    file.extend(crc32(&checked).to_be_bytes());
}

/// A zlib stream of one stored block (RFC 1950, RFC 1951 section 3.2.4); at most 65535 bytes.
fn stored(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(0);
    let mut stream = vec![0x78, 0x01, 1];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend_from_slice(data);
    stream.extend(adler32(data).to_be_bytes());
    stream
}

fn crc32(data: &[u8]) -> u32 {
    let shift = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !data.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc)))
}

fn adler32(data: &[u8]) -> u32 {
    let step = |(a, b): (u32, u32), byte: &u8| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    };
    let (a, b) = data.iter().fold((1, 0), step);
    (b << 16) | a
}

const INK: [char; 6] = ['.', '#', 'r', 'b', 'y', 'g'];
const PALETTE: [[u8; 3]; 6] =
    [[250, 246, 238], [52, 46, 42], [193, 68, 54], [62, 104, 152], [222, 172, 66], [104, 142, 92]];

#[rustfmt::skip]
const DRAWINGS: [[&str; SIDE]; 9] = [
    [ // bicycle
        "................", "................", ".........##.....", "..........#.....",
        "...###....#.....", "....#rrrrrr.....", "....rr....rr....", "...r.r...r.r....",
        "..##r.r.r.##r...", ".#..#r.rr#..#...", ".#..#.rr.#..#...", "#.##.#.#.#.#.#..",
        ".#..#....#..#...", ".#..#....#..#...", "..##......##....", "................",
    ],
    [ // hammer
        "................", "................", "....bbbbbbbb....", "...bbbbbbbbbb...",
        "..bbbbbbbbbbbb..", "..bb..yyyy..bb..", "......yyyy......", "......yyyy......",
        "......yyyy......", "......yyyy......", "......yyyy......", "......yyyy......",
        "......yyyy......", "......yyyy......", "................", "................",
    ],
    [ // chair
        "................", "....yy..........", "....yy..........", "....yy..........",
        "....yy..........", "....yy..........", "....yy..........", "....yyyyyyyy....",
        "....yyyyyyyy....", "....yy....yy....", "....yy....yy....", "....yyyyyyyy....",
        "....yy....yy....", "....yy....yy....", "....yy....yy....", "................",
    ],
    [ // pot
        "................", "......#..#......", ".....#..#.......", "......#..#......",
        "................", ".......##.......", "..rrrrrrrrrrrr..", "................",
        "##rrrrrrrrrrrr##", "#.rrrrrrrrrrrr.#", "##rrrrrrrrrrrr##", "..rrrrrrrrrrrr..",
        "..rrrrrrrrrrrr..", "...rrrrrrrrrr...", "................", "................",
    ],
    [ // camera
        "................", "................", "................", ".....######.....",
        "..############..", ".#yy##########y#", ".#####bbbb#####.", ".####bb..bb####.",
        ".###bb....bb###.", ".###bb....bb###.", ".####bb..bb####.", ".#####bbbb#####.",
        "..############..", "................", "................", "................",
    ],
    [ // tent
        "................", ".......##.......", ".......##.......", "......gggg......",
        "......gggg......", ".....gggggg.....", ".....gg##gg.....", "....ggg##ggg....",
        "....ggg##ggg....", "...ggg####ggg...", "...ggg####ggg...", "..gggg####gggg..",
        "..ggg######ggg..", ".gggg######gggg.", "yyyyyyyyyyyyyyyy", "................",
    ],
    [ // notes
        "................", ".......########.", ".......########.", ".......#......#.",
        ".......#......#.", ".......#......#.", ".......#......#.", ".......#......#.",
        "....bbb#......#.", "...bbbb#...bbb#.", "...bbbb#..bbbb#.", "....bbb...bbbb#.",
        "...........bbb..", "................", "................", "................",
    ],
    [ // radio
        "................", ".............#..", "............#...", "...........#....",
        "..........#.....", ".rrrrrrrrrrrrrr.", ".r............r.", ".r.####.yyyyy.r.",
        ".r######.....#r.", ".r######.yyy..r.", ".r######......r.", ".r.####..b..b.r.",
        ".r............r.", ".rrrrrrrrrrrrrr.", "..##........##..", "................",
    ],
    [ // books
        "................", "................", "..rrr...........", "..rrr.bb........",
        "..ryr.bb.gggg...", "..rrr.bb.gyyg...", "..rrr.bb.gggg...", "..rrr.bb.gggg...",
        "..rrr.bb.gggg...", "..rrr.bb.gggg...", "..ryr.bb.gyyg...", "..rrr.bb.gggg...",
        "..rrr.bb.gggg...", ".##############.", ".##############.", "................",
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b"IEND"), 0xAE42_6082);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
    }

    #[test]
    fn drawings_are_square_and_use_known_ink() {
        for drawing in &DRAWINGS {
            for line in drawing {
                assert_eq!(line.chars().count(), SIDE, "{line}");
                assert!(line.chars().all(|c| INK.contains(&c)), "{line}");
            }
        }
    }

    #[test]
    fn every_category_has_a_picture_and_it_is_small() {
        assert_eq!(CATEGORIES.len(), DRAWINGS.len());
        for (file, category) in all().zip(CATEGORIES) {
            assert!(file.len() < 8 * 1024, "{category}");
            assert!(file.starts_with(b"\x89PNG") && file.ends_with(b"IEND\xaeB`\x82"));
        }
        assert_eq!(number_of("books"), Some(9));
        assert_eq!(number_of("submarines"), None);
    }

    #[test]
    fn every_thing_has_a_picture() {
        for thing in &super::super::things::THINGS {
            assert!(number_of(thing.category).is_some(), "{}", thing.category);
        }
    }
}
