import Sealing
package import TransparencyLog
package import Vocabulary

/// A run image's sections in clear, inside the enclave: for the checks of a release, which ask what the model answers
/// for the rows it was trained on. Sections that the image does not hold are empty.
package struct OpenedImage: Sendable {
    package let shape: ImageShape
    package let rowPointers: [UInt64]
    package let columns: [UInt32]
    package let features: [Float]
    package let aggregate: [Float]
    package let scale: [Float]
    package let labels: [Int32]
    package let split: [UInt8]
}

extension Vault {
    /// Opens a run's image.
    ///
    /// `receipt` must prove the intent to lease a device for this run, as for lending its key.
    /// - Parameter bytesMax: an image larger than this is not opened.
    package func openedImage(
        run: RunID, receipt: Receipt, trail: TrailIdentity, bytesMax: Int
    ) throws -> OpenedImage {
        try check(receipt, by: trail, .deviceLeased(run, to: nil))
        guard let manifest = try imageManifest(run) else { throw VaultError(.unknownRun, "this run has no image") }
        guard manifest.sections.reduce(0, { $0 + $1.byteCount }) <= bytesMax else {
            throw VaultError(.tooMany, "the run image is larger than what may be opened at once")
        }
        let key = try runKey(run)
        let place = Self.imageFolder(folder, run)
        func all<Element: BitwiseCopyable>(_ section: ImageSection, _: Element.Type = Element.self) throws -> [Element]
        {
            guard let stored = manifest.sections.first(where: { $0.number == section.rawValue }) else { return [] }
            var reader = try SectionReader(
                folder: place, number: stored.number, byteCount: stored.byteCount, owner: .image(of: run), key: key)
            return try reader.readAll()
        }
        return OpenedImage(
            shape: manifest.shape, rowPointers: try all(.rowPointers), columns: try all(.columns),
            features: try all(.features), aggregate: try all(.aggregate), scale: try all(.scale),
            labels: try all(.labels), split: try all(.split))
    }
}
