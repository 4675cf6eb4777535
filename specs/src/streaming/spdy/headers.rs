//! Names and values in compressed blocks (SPDY/3.1, section 2.6.10): one zlib stream for each direction of a
//! connection, begun with a dictionary that both sides know.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Most bytes that one block may come to.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;

/// Most names in one block.
pub const NAMES_MAX: usize = 64;

/// Of zlib, for the dictionary of version 3.
#[cfg(test)]
const DICTIONARY_ADLER: u32 = 0xe3c6_a7c2;

/// Begin the dictionary, each with its length before it.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
keep-alive origin";

/// And this ends it.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split(' ') {
        dictionary.put_u32(word.len() as u32);
        dictionary.put_slice(word.replace('_', " ").as_bytes());
    }
    dictionary.put_slice(DICTIONARY_TAIL.as_bytes());
    dictionary
}

/// Names in lower case, in the order of the block; several values of a name are separated by NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// The first value of `name`, in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)?;
        value.split('\0').next()
    }

    fn parse(mut block: &[u8]) -> Result<Self, SpdyError> {
        let count = number(&mut block)?;
        if count > NAMES_MAX {
            return Err(SpdyError::Headers("has too many names"));
        }
        let mut pairs: Vec<(String, String)> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = text(&mut block)?;
            if name.is_empty() || name.chars().any(|c| c.is_ascii_uppercase() || c.is_control()) {
                return Err(SpdyError::Headers("a name is empty, not in lower case or has control characters"));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(SpdyError::Headers("a name comes twice"));
            }
            let value = text(&mut block)?;
            pairs.push((name, value));
        }
        if !block.is_empty() {
            return Err(SpdyError::Headers("goes on after its last value"));
        }
        Ok(Self(pairs))
    }
}

fn number(block: &mut &[u8]) -> Result<usize, SpdyError> {
    block.try_get_u32().map(|number| number as usize).map_err(|_| SpdyError::Headers("ends too early"))
}

fn text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let length = number(block)?;
    let (text, rest) = block.split_at_checked(length).ok_or(SpdyError::Headers("ends too early"))?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers("is not UTF-8"))
}

/// Reads the blocks of one direction, which have to come in their order.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    pub fn read(&mut self, mut block: &[u8]) -> Result<Headers, SpdyError> {
        const BROKEN: SpdyError = SpdyError::Headers("is no zlib stream with SPDY's dictionary");
        let mut plain: Vec<u8> = Vec::with_capacity(1 << 10);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= BLOCK_BYTES_MAX {
                    return Err(SpdyError::Headers("is too long when inflated"));
                }
                plain.reserve(plain.len());
            }
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.0.total_in() - read) as usize..];
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| BROKEN)?;
                }
                Err(_) => return Err(BROKEN),
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers("ends the connection's zlib stream")),
                Ok(_) if block.is_empty() && plain.len() < plain.capacity() => break,
                // Neither side moved although both could.
                Ok(_)
                    if read == self.0.total_in() && written == self.0.total_out() && plain.len() < plain.capacity() =>
                {
                    return Err(BROKEN);
                }
                Ok(_) => {}
            }
        }
        Headers::parse(&plain)
    }
}

/// Writes the blocks of one direction.
#[derive(Debug)]
pub struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        let mut stream = Compress::new(Compression::fast(), true);
        // Only a stream in use already would refuse it.
        let _ = stream.set_dictionary(&dictionary());
        Self(stream)
    }
}

impl Deflater {
    pub fn write(&mut self, headers: &Headers) -> Bytes {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.0.len() as u32);
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            let read = self.0.total_in();
            let outcome = self.0.compress_vec(rest, &mut block, FlushCompress::Sync);
            rest = &rest[(self.0.total_in() - read) as usize..];
            if outcome.is_err() || (rest.is_empty() && block.len() < block.capacity()) {
                return block.into();
            }
            block.reserve(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_spdy_s() {
        assert_eq!(dictionary().len(), 1423);
        let mut reader = Decompress::new(true);
        let block = Deflater::default().write(&Headers::default());
        let error = reader.decompress_vec(&block, &mut Vec::with_capacity(64), FlushDecompress::Sync).unwrap_err();
        assert_eq!(error.needs_dictionary(), Some(DICTIONARY_ADLER));
    }

    #[test]
    fn blocks_of_one_connection_read_back_in_order() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let long = "x".repeat(5000);
        for headers in [
            Headers::new(&[("streamtype", "stdin")]),
            Headers::default(),
            Headers::new(&[("streamtype", "data"), ("port", "80"), ("requestid", "1"), ("long", &long)]),
        ] {
            assert_eq!(inflater.read(&deflater.write(&headers)), Ok(headers));
        }
    }

    #[test]
    fn several_values_are_one_name() {
        let headers = Headers::new(&[("a", "one\0two")]);
        assert_eq!(headers.get("a"), Some("one"));
        assert_eq!(headers.get("b"), None);
    }

    #[test]
    fn blocks_that_inflate_without_end_are_refused() {
        let bomb = Headers::new(&[("a", &"x".repeat(BLOCK_BYTES_MAX))]);
        let block = Deflater::default().write(&bomb);
        assert!(block.len() < 4096);
        assert_eq!(Inflater::default().read(&block), Err(SpdyError::Headers("is too long when inflated")));
    }

    #[test]
    fn wrong_blocks_are_refused() {
        assert!(Inflater::default().read(b"not zlib at all").is_err());
        assert!(Inflater::default().read(b"").is_err());
        let parse = |block: &[u8]| Headers::parse(block).unwrap_err().to_string();
        assert_eq!(parse(&[0, 0, 0, 1]), "spdy: header block: ends too early");
        assert_eq!(parse(&[255, 255, 255, 255]), "spdy: header block: has too many names");
        assert_eq!(parse(&[0, 0, 0, 0, 0]), "spdy: header block: goes on after its last value");
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 1, b'A', 0, 0, 0, 0]).contains("lower case"));
        assert!(parse(&[0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 0, 0]).contains("twice"));
    }
}
