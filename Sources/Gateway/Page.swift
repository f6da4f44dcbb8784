/// One page of a list, and where the next one begins.
package struct Page<Item: Sendable>: Sendable {
    /// May be fewer than were asked for, even none, while there is a `next`: a page looks at a bounded number of things.
    package let items: [Item]
    /// `nil` at the end of the list.
    package let next: Cursor?
}

/// Which page of a list is asked for.
package struct PageRequest: Sendable {
    package enum Order: String, CaseIterable, Sendable { case newest, oldest }

    package static let limitMax = 200
    package static let limitDefault = 50

    let order: Order
    let after: Cursor?
    let limit: Int

    /// - Parameter after: `Page.next` of the same list in the same order.
    package init(order: Order = .newest, after: Cursor? = nil, limit: Int = limitDefault) throws(GatewayError) {
        guard (1...Self.limitMax).contains(limit) else {
            throw GatewayError(.usage, "a page has from 1 to \(Self.limitMax) items")
        }
        guard after == nil || after?.order == order else {
            throw GatewayError(.usage, "the cursor is of the same list in another order")
        }
        self.order = order
        self.after = after
        self.limit = limit
    }
}

/// A place in a list that stays where it is while the list grows. To clients it is one opaque word; it holds nothing
/// but the place, so a made-up one shows nothing that its maker may not see.
package struct Cursor: Sendable, Equatable, CustomStringConvertible {
    let list: ListName
    let order: PageRequest.Order
    let place: String

    init(list: ListName, order: PageRequest.Order, place: String) {
        self.list = list
        self.order = order
        self.place = place
    }

    /// Reads what `description` writes.
    package init(_ text: String) throws(GatewayError) {
        let parts = text.split(separator: "~", maxSplits: 2, omittingEmptySubsequences: false).map(String.init)
        guard text.utf8.count <= 256, parts.count == 3, let list = ListName(rawValue: parts[0]),
            let order = PageRequest.Order(rawValue: parts[1]), !parts[2].isEmpty
        else { throw GatewayError(.usage, "the cursor is not one that a page of a list gave") }
        self.init(list: list, order: order, place: parts[2])
    }

    package var description: String { "\(list.rawValue)~\(order.rawValue)~\(place)" }
}

/// The lists that have pages.
enum ListName: String, Sendable {
    case requests, reviews, grants, runs, releases, datasets, nodes, people, records, policies, notices
}

extension Page {
    /// How many things one page looks at, whether it shows them or not.
    private static var scanMax: Int { 20_000 }

    /// Walks `things`, which stand in ascending order of their places, from where `request` says.
    ///
    /// - Parameter item: what to show of a thing; `nil` for one that the asker may not see or did not ask for.
    init<Things: RandomAccessCollection, Place: Comparable & LosslessStringConvertible>(
        _ request: PageRequest, of list: ListName, _ things: Things, place: (Things.Element) throws -> Place,
        item: (Things.Element) throws -> Item?
    ) throws {
        var after: Place?
        if let cursor = request.after {
            guard cursor.list == list, let place = Place(cursor.place) else {
                throw GatewayError(.usage, "the cursor is of another list")
            }
            after = place
        }
        var items: [Item] = []
        var next: Cursor?
        var looked = 0
        var last: Place?
        func walk(_ things: some Sequence<Things.Element>) throws {
            for thing in things {
                if items.count == request.limit || looked == Self.scanMax {
                    next = last.map { Cursor(list: list, order: request.order, place: $0.description) }
                    return
                }
                looked += 1
                last = try place(thing)
                if let shown = try item(thing) { items.append(shown) }
            }
        }
        switch request.order {
        case .oldest:
            let start = try after.map { after in try things.partitionPoint { try place($0) > after } }
            try walk(things[(start ?? things.startIndex)...])
        case .newest:
            let end = try after.map { after in try things.partitionPoint { try place($0) >= after } }
            try walk(things[..<(end ?? things.endIndex)].reversed())
        }
        self.init(items: items, next: next)
    }
}

extension RandomAccessCollection {
    /// Where the elements begin for which `isAfter` holds; it holds for none before and for all from there.
    func partitionPoint(where isAfter: (Element) throws -> Bool) rethrows -> Index {
        var low = startIndex
        var count = self.count
        while count > 0 {
            let middle = index(low, offsetBy: count / 2)
            if try isAfter(self[middle]) {
                count /= 2
            } else {
                low = index(after: middle)
                count -= count / 2 + 1
            }
        }
        return low
    }
}
