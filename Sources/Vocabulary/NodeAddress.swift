/// Where a device node listens: `HOST:PORT`, or `mptcp://HOST:PORT` for Multipath TCP (RFC 8684) where the two have more
/// than one path between them.
///
/// A kernel or a peer without Multipath TCP speaks plain TCP on such an address; which other addresses belong to a host is
/// told to its kernel (`ip mptcp endpoint`).
package struct NodeAddress: Hashable, Sendable {
    private static let multipathScheme = "mptcp://"

    package let host: String
    package let port: UInt16
    package let isMultipath: Bool

    package init(host: String, port: UInt16, isMultipath: Bool = false) {
        self.host = host
        self.port = port
        self.isMultipath = isMultipath
    }

    /// nil where the text is no address. Port 0 is an address to listen on only.
    package init?(_ text: String) {
        isMultipath = text.hasPrefix(Self.multipathScheme)
        let place = text.dropFirst(isMultipath ? Self.multipathScheme.count : 0)
        guard let colon = place.lastIndex(of: ":"), colon != place.startIndex, !place.contains("/"),
            let port = UInt16(place[place.index(after: colon)...])
        else { return nil }
        host = String(place[..<colon])
        self.port = port
    }

    package var text: String { "\(isMultipath ? Self.multipathScheme : "")\(host):\(port)" }
}
