use base64::engine::general_purpose::STANDARD as ENCODE;
use proptest::prelude::*;

use super::*;

fn quoted(uri: &str) -> String {
    format!("\"{uri}\"")
}

fn audio(file: &[u8]) -> Counted {
    count(&quoted(&ENCODE.encode(file)), Kind::Audio)
}

fn wav(rate: u32, channels: u16, bits: u16, tag: u16, seconds: u32) -> Vec<u8> {
    let align = channels * bits / 8;
    let data = rate * u32::from(align) * seconds;
    let mut file = b"RIFF\0\0\0\0WAVEJUNK\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
    file.extend(tag.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(align)).to_le_bytes());
    file.extend(align.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend(data.to_le_bytes());
    file.resize(file.len() + usize::try_from(data).unwrap(), 0);
    file
}

/// So many frames of MPEG 1 Layer III at 44,100 Hz, each 1,152 samples long.
fn mp3(index: u8, frames: usize) -> Vec<u8> {
    let head = [0xff, 0xfb, index << 4, 0];
    let (length, _) = mp3_frame(head).unwrap();
    let mut frame = head.to_vec();
    frame.resize(usize::try_from(length).unwrap(), 0);
    frame.repeat(frames)
}

#[test]
fn a_wav_has_the_seconds_of_its_samples() {
    for (rate, channels, bits, tag) in
        [(16_000, 1, 16, 1), (44_100, 2, 16, 1), (8_000, 1, 8, 7), (48_000, 1, 32, 3)]
    {
        let Counted { images, tokens } = audio(&wav(rate, channels, bits, tag, 60));
        assert_eq!(images, 1);
        assert!((60 * 50..=61 * 50).contains(&tokens), "{rate}: {tokens}");
    }
    // One that is compressed is as long as it can be.
    let tokens = audio(&wav(8_000, 1, 8, 2, 60)).tokens;
    assert!(tokens >= 60 * 8_000 / AUDIO_RATE * 50, "{tokens}");
}

#[test]
fn an_mp3_has_the_seconds_of_its_frames_whatever_the_first_says() {
    let frames = 44_100 * 60 / 1_152;
    let fast = audio(&mp3(14, frames)).tokens;
    assert!((60 * 50..=62 * 50).contains(&fast), "{fast}");
    // The first frame at 320 kbit/s, the others at 32.
    let mixed = [mp3(14, 1), mp3(1, frames)].concat();
    let slow = audio(&mixed).tokens;
    assert!((60 * 50..=62 * 50).contains(&slow), "{slow}");
    let tagged = [b"ID3\x04\0\0\0\0\x01\0".to_vec(), vec![0; 128], mp3(9, frames)].concat();
    let tagged = audio(&tagged).tokens;
    assert!((60 * 50..=62 * 50).contains(&tagged), "{tagged}");
    // What is no frame is as long as it can be.
    let junk = [mp3(9, 1), vec![1; 75_000]].concat();
    assert!(audio(&junk).tokens >= 100 * 50);
}

#[test]
fn a_flac_has_the_seconds_that_it_says_and_no_fewer_than_its_samples() {
    let flac = |samples: u64, bytes: usize| {
        let packed = 16_000_u64 << 44 | 15 << 36 | samples;
        let mut file = b"fLaC\0\0\0\x22".to_vec();
        file.extend([0; 10]);
        file.extend(packed.to_be_bytes());
        file.resize(bytes, 0);
        audio(&file).tokens
    };
    assert_eq!(flac(16_000 * 3_600, 4_000), 3_600 * 50);
    assert!(flac(1, 32_000 * 60) >= 59 * 50);
}

#[test]
fn what_a_file_is_is_said_by_its_place_its_type_or_itself() {
    let video = |uri: &str, kind| count(&quoted(uri), kind).tokens;
    let data = ENCODE.encode(vec![0; 3_180_000]);
    assert_eq!(video(&format!("data:x/y;base64,{data}"), Kind::Video), 100 * 300);
    assert_eq!(video(&format!("data:VIDEO/mp4;base64,{data}"), Kind::Image), 100 * 300);
    assert!(video(&format!("data:audio\\/ogg;base64,{data}"), Kind::Image) > 4_000 * 50);
    assert_eq!(video(&format!("data:image/png;base64,{data}"), Kind::Image), 0);
    // Ollama has sounds among its images.
    let sound = ENCODE.encode(wav(16_000, 1, 16, 1, 60));
    assert!(count(&quoted(&sound), Kind::Image).tokens >= 3_000);
    let mp4 = [b"\0\0\0\x20ftypisom".to_vec(), vec![0; 320_000]].concat();
    assert_eq!(count(&quoted(&ENCODE.encode(mp4)), Kind::Image).tokens, 11 * 300);
    // PHP escapes slashes.
    let escaped = ENCODE.encode(mp3(9, 100)).replace('/', "\\/");
    assert!(count(&quoted(&escaped), Kind::Audio).tokens > 0);
}

#[test]
fn a_video_of_pictures_counts_each_of_them() {
    let frames = vec!["QUJD"; 100].join(",");
    let counted = count(&quoted(&format!("data:video/jpeg;base64,{frames}")), Kind::Video);
    assert_eq!(counted.images, 100);
}

proptest! {
    #[test]
    fn no_file_makes_it_panic_or_takes_long(
        magic in prop::sample::select(vec!["SUQz", "//v", "UklGRgAAAABXQVZF", "ZkxhQw", ""]),
        rest in "[A-Za-z0-9+/,\\\\]{0,200}",
    ) {
        for kind in [Kind::Image, Kind::Audio, Kind::Video] {
            let _ = count(&format!("\"data:;base64,{magic}{rest}\""), kind);
            let _ = count(&format!("\"{magic}{rest}"), kind);
        }
    }
}
