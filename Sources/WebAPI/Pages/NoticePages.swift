import Gateway
import Hummingbird
import HummingbirdCore
import Vocabulary

extension Site {
    func registerNotices(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.noticesPage) { request, context in
            let words = Words.of(context.language)
            let page = try await gateway.notices(try Self.pageRequest(request), by: context.person)
            var content: [String: Any] = [
                "lead": words("notices.lead"), "hasItems": !page.items.isEmpty,
                "items": page.items.map { notice -> [String: Any] in
                    let name = notice.subject.description.split(separator: "/").last.map(String.init) ?? ""
                    return [
                        "words": words("notice.\(notice.code.rawValue)", ["name": name]),
                        "link": Self.link(to: notice), "time": words.time(notice.time),
                        "badge": Self.badge(
                            notice.isRead ? .plain : .moving, words(notice.isRead ? "notices.read" : "notices.new")),
                    ]
                },
            ]
            if page.items.contains(where: { !$0.isRead }) { content["last"] = "\(page.items.map(\.id).max() ?? 0)" }
            content["next"] = page.next.map { "/notices?\(Form([(name: "after", value: "\($0)")]).encoded)" }
            return self.page("notices", titled: words("notices.title"), content, at: "/notices", context)
        }
        routes.on(.noticesRead) { _, context in
            guard let last = context.form["last"].flatMap({ Int64($0) }), last >= 0 else { throw Problem.badForm }
            try await gateway.readNotices(upTo: last, by: context.person)
            return Self.redirect(to: "/notices")
        }
    }

    private static func link(to notice: Notice) -> String {
        switch notice.subject {
        case .gateway: "/"
        case .request(let id): "/requests/\(id)"
        case .run(let id): notice.code == .releaseReviewWanted ? "/runs/\(id)/release" : "/runs/\(id)"
        }
    }
}
